"""The Engine API's objects and error codes, as an execution client reads and writes them.

Unlike the engine plane, which passes bytes through, an execution client must understand every field; so
these are whole objects. Unknown fields are ignored, absent ones are left out again (execution-apis,
`src/engine`; OP fields: op-geth `beacon/engine`).
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from appliance.domain.errors import ApplianceError

ZERO_HASH: Final = "0x" + "00" * 32
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SERVER_ERROR: Final = -32000
UNKNOWN_PAYLOAD: Final = -38001
INVALID_FORKCHOICE: Final = -38002
INVALID_ATTRIBUTES: Final = -38003
UNSUPPORTED_FORK: Final = -38005


class RpcError(ApplianceError):
    """A JSON-RPC error object: what the simulated client answers, or what a caller was answered."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class ForkchoiceState(msgspec.Struct, frozen=True, rename="camel"):
    """`ForkchoiceStateV1`."""

    head_block_hash: str
    safe_block_hash: str = ZERO_HASH
    finalized_block_hash: str = ZERO_HASH


class PayloadAttributes(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`PayloadAttributesV1..V3` with the OP Stack's additions. Quantities and hashes are hex strings."""

    timestamp: str
    prev_randao: str
    suggested_fee_recipient: str
    withdrawals: list[dict[str, str]] | None = None
    parent_beacon_block_root: str | None = None
    transactions: list[str] | None = None
    no_tx_pool: bool | None = None
    gas_limit: str | None = None
    eip1559_params: str | None = msgspec.field(default=None, name="eip1559Params")
    min_base_fee: int | str | None = None  # op-geth sends a number, a quantity is taken as well


class ExecutionPayload(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`ExecutionPayloadV1..V3`, and OP Isthmus' V4 with `withdrawalsRoot`."""

    parent_hash: str
    fee_recipient: str
    state_root: str
    receipts_root: str
    logs_bloom: str
    prev_randao: str
    block_number: str
    gas_limit: str
    gas_used: str
    timestamp: str
    extra_data: str
    base_fee_per_gas: str
    block_hash: str
    transactions: list[str]
    withdrawals: list[dict[str, str]] | None = None
    blob_gas_used: str | None = None
    excess_blob_gas: str | None = None
    withdrawals_root: str | None = None


def unhex(text: str) -> bytes:
    """Bytes of 0x-prefixed hex data; ValueError when it is anything else."""
    if not text.startswith("0x"):
        raise ValueError(f"not 0x-prefixed hex: {text[:20]!r}")
    return bytes.fromhex(text[2:])


def hex_data(data: bytes) -> str:
    """0x-prefixed lower-case hex of all bytes."""
    return "0x" + data.hex()


def quantity(text: str | int) -> int:
    """An integer from a JSON-RPC quantity or a plain number."""
    return text if isinstance(text, int) else int(text, 16)


T = TypeVar("T")


def decode_as(kind: type[T], value: Any, code: int = INVALID_PARAMS) -> T:
    """`value`, decoded JSON, as a `kind`; RpcError with `code` and the field's path when it does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RpcError(code, f"{kind.__name__}: {error}") from error


def forkchoice_json(head_hash: str) -> dict[str, Any]:
    """`ForkchoiceStateV1` of a chain that has no safe and no finalized block yet."""
    return dict(msgspec.to_builtins(ForkchoiceState(head_hash)))


def status(value: str, latest_valid_hash: str | None = None, error: str | None = None) -> dict[str, Any]:
    """`PayloadStatusV1` as JSON."""
    return {"status": value, "latestValidHash": latest_valid_hash, "validationError": error}


def parameter(params: Sequence[Any], index: int) -> Any:
    """Positional parameter `index`, None when it was left out."""
    return params[index] if index < len(params) else None
