"""Engine API bodies of a given size: what the fake upstreams answer and what the driver asks."""

import json

from bench.children import ChildError

PARENT_HASH = "0x" + "aa" * 32
ZERO_HASH = "0x" + "00" * 32
EL, BUILDER = "el", "builder"
HASH_PREFIX = {EL: "0x" + "e1" * 24, BUILDER: "0x" + "b1" * 24}
"""How the hashes of a builder's blocks begin, so that an answer shows who built it; the build's number follows."""
DEPOSIT = "0x7e" + "00" * 300  # what the attributes say that each block begins with
_TIMESTAMP, _HASH = b"<timestamp>", b"<hash>"
TRANSACTION_BYTES = 250  # a common size: transfers have 110, swaps 400


class PayloadTemplate:
    """The result of engine_getPayloadV3 for any build, filled with transactions up to about ``size`` bytes."""

    def __init__(self, role: str, size: int) -> None:
        self._role = role
        room = max(0, size - len(_result([DEPOSIT]))) // (len(_transaction(0)) + len('"",'))
        whole = _result([DEPOSIT, *(_transaction(number) for number in range(room))])
        before, _, rest = whole.partition(_TIMESTAMP)
        middle, _, after = rest.partition(_HASH)
        self._before, self._middle, self._after = before, middle, after

    def fill(self, build: int, timestamp: bytes) -> bytes:
        """The block of that build; ``timestamp`` as the attributes had it."""
        block_hash = f"{HASH_PREFIX[self._role]}{build:016x}".encode()
        return b"".join((self._before, timestamp, self._middle, block_hash, self._after))


def _transaction(number: int) -> str:
    return f"0x02{number:016x}" + "5a" * (TRANSACTION_BYTES - 9)


def _result(transactions: list[str]) -> bytes:
    payload = {
        "parentHash": PARENT_HASH,
        "feeRecipient": "0x4200000000000000000000000000000000000011",
        "stateRoot": ZERO_HASH,
        "receiptsRoot": ZERO_HASH,
        "logsBloom": "0x" + "00" * 256,
        "prevRandao": ZERO_HASH,
        "blockNumber": "0x2",
        "gasLimit": "0x3938700",
        "gasUsed": "0x1c9c380",
        "timestamp": _TIMESTAMP.decode(),
        "extraData": "0x00000000fa00000006",  # Holocene: the attributes' own rules
        "baseFeePerGas": "0x7",
        "blockHash": _HASH.decode(),
        "withdrawals": [],
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "transactions": transactions,
    }
    result = {
        "executionPayload": payload,
        "blockValue": "0x1",
        "blobsBundle": {"commitments": [], "proofs": [], "blobs": []},
        "shouldOverrideBuilder": False,
        "parentBeaconBlockRoot": ZERO_HASH,
    }
    return json.dumps(result, separators=(",", ":")).encode()


def forkchoice_updated(number: int, head: str = PARENT_HASH) -> bytes:
    """Without attributes."""
    return _request(number, "engine_forkchoiceUpdatedV3", [{**_state(), "headBlockHash": head}, None])


def build(number: int, timestamp: int, *, l2_only: bool) -> bytes:
    """engine_forkchoiceUpdatedV3 with OP attributes; ``l2_only`` is `noTxPool`."""
    attributes = {
        "timestamp": hex(timestamp),
        "prevRandao": ZERO_HASH,
        "suggestedFeeRecipient": "0x4200000000000000000000000000000000000011",
        "withdrawals": [],
        "parentBeaconBlockRoot": ZERO_HASH,
        "transactions": [DEPOSIT],
        "noTxPool": l2_only,
        "gasLimit": "0x3938700",
        "eip1559Params": "0x000000fa00000006",
    }
    return _request(number, "engine_forkchoiceUpdatedV3", [_state(), attributes])


def payload_id(answer: bytes) -> str:
    """The id in the answer to `build`; ChildError when no build was begun."""
    result = json.loads(answer).get("result") or {}
    if not result.get("payloadId"):
        raise ChildError(f"no payload id in {answer[:300]!r}")
    return str(result["payloadId"])


def get_payload(number: int, payload_id: str) -> bytes:
    return _request(number, "engine_getPayloadV3", [payload_id])


def _state() -> dict[str, str]:
    return {"headBlockHash": PARENT_HASH, "safeBlockHash": PARENT_HASH, "finalizedBlockHash": ZERO_HASH}


def _request(number: int, method: str, params: list[object]) -> bytes:
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(body, separators=(",", ":")).encode()
