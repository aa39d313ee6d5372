"""A recorded flashblock stream: the messages as they came, by payload, and what can be rebuilt from them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.devnet.messages import ExecutionPayload, PayloadAttributes
from appliance.devnet.payload_id import payload_id
from appliance.devnet.transactions import DEPOSIT_TYPE
from appliance.domain.errors import ConfigError, DecodeError
from appliance.domain.flashblocks import Encoding, EndOfPayload, Flashblock, FlashblockBase
from appliance.domain.payloads import PayloadId
from appliance.wire import flashblock

ID_VERSIONS = (1, 2, 3, 4)
DEPOSIT_PREFIX = f"0x{DEPOSIT_TYPE:02x}"


@dataclass(frozen=True)
class CapturedPayload:
    """One payload of a capture: its messages in their order, end messages included."""

    payload_id: PayloadId
    messages: tuple[bytes, ...]
    flashblocks: tuple[Flashblock, ...]

    @property
    def base(self) -> FlashblockBase:
        """The base of flashblock 0."""
        base = self.flashblocks[0].base
        assert base is not None  # noqa: S101 -- `read_capture` refuses a payload without it
        return base

    @property
    def transactions(self) -> list[str]:
        """All transactions in order, as hex."""
        return [text for each in self.flashblocks for text in _transactions(each)]

    def attributes(self) -> PayloadAttributes:
        """The attributes that asked for this payload, as far as the flashblocks tell.

        The deposits open flashblock 0; Holocene's extra data holds eip1559Params, Jovian's the minimum fee.
        """
        base = self.base
        first = _transactions(self.flashblocks[0])
        extra = base.extra_data.removeprefix("0x")
        return PayloadAttributes(
            timestamp=base.timestamp,
            prev_randao=base.prev_randao,
            suggested_fee_recipient=base.fee_recipient,
            withdrawals=[],
            parent_beacon_block_root=base.parent_beacon_block_root,
            transactions=[text for text in first if text.startswith(DEPOSIT_PREFIX)],
            no_tx_pool=False,
            gas_limit=base.gas_limit,
            eip1559_params=f"0x{extra[2:18]}" if len(extra) >= 18 else None,
            min_base_fee=int(extra[18:34], 16) if len(extra) >= 34 else None,
        )

    def id_is_computable(self) -> bool:
        """Whether the rebuilt attributes give the recorded payload id under some client's version byte."""
        attributes = self.attributes()
        return any(payload_id(self.base.parent_hash, attributes, version) == self.payload_id for version in ID_VERSIONS)

    def payload(self) -> ExecutionPayload:
        """The block that the flashblocks add up to; ConfigError when the last one has no diff."""
        base, diff = self.base, self.flashblocks[-1].diff
        if diff is None:
            raise ConfigError(f"capture: flashblock {self.flashblocks[-1].index} has no diff")
        withdrawals = [msgspec.json.decode(raw) for each in self.flashblocks for raw in _withdrawals(each)]
        return ExecutionPayload(
            parent_hash=base.parent_hash,
            fee_recipient=base.fee_recipient,
            state_root=diff.state_root,
            receipts_root=diff.receipts_root,
            logs_bloom=diff.logs_bloom,
            prev_randao=base.prev_randao,
            block_number=base.block_number,
            gas_limit=base.gas_limit,
            gas_used=diff.gas_used,
            timestamp=base.timestamp,
            extra_data=base.extra_data,
            base_fee_per_gas=base.base_fee_per_gas,
            block_hash=diff.block_hash,
            transactions=self.transactions,
            withdrawals=withdrawals,
            blob_gas_used=diff.blob_gas_used or "0x0",
            excess_blob_gas="0x0",
            withdrawals_root=diff.withdrawals_root,
        )

    @property
    def version(self) -> int:
        """Version of getPayload and newPayload: 4 with a withdrawals root (Isthmus), else 3."""
        diff = self.flashblocks[-1].diff
        return 4 if diff is not None and diff.withdrawals_root is not None else 3

    def envelope(self) -> dict[str, Any]:
        """The answer of getPayload for the whole payload."""
        return envelope_of(self.payload(), self.base.parent_beacon_block_root, self.version)


def envelope_of(payload: ExecutionPayload, parent_beacon_block_root: str, version: int) -> dict[str, Any]:
    """getPayload's answer, V3 or later, around a payload of no value."""
    envelope: dict[str, Any] = {
        "executionPayload": msgspec.to_builtins(payload),
        "blockValue": "0x0",
        "blobsBundle": {"commitments": [], "proofs": [], "blobs": []},
        "shouldOverrideBuilder": False,
        "parentBeaconBlockRoot": parent_beacon_block_root,
    }
    return {**envelope, "executionRequests": []} if version >= 4 else envelope


def read_capture(path: Path) -> tuple[CapturedPayload, ...]:
    """The payloads in a JSONL file of flashblock messages, in the order of their first message.

    ConfigError, one line with file and line number, when it cannot be read or replayed.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"capture {path}: {error.strerror}") from error
    by_payload: dict[PayloadId, list[tuple[bytes, Flashblock | EndOfPayload]]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            message = _decode(path, number, line)
            by_payload.setdefault(message.payload_id, []).append((line, message))
    if not by_payload:
        raise ConfigError(f"capture {path}: no flashblock in it")
    return tuple(_captured(path, name, messages) for name, messages in by_payload.items())


def _decode(path: Path, number: int, line: bytes) -> Flashblock | EndOfPayload:
    try:
        return flashblock.decode(line, Encoding.TEXT)
    except DecodeError as error:
        raise ConfigError(f"capture {path}, line {number}: {error}") from error


def _captured(
    path: Path, name: PayloadId, messages: Iterable[tuple[bytes, Flashblock | EndOfPayload]]
) -> CapturedPayload:
    lines, decoded = zip(*messages, strict=True)
    flashblocks = tuple(each for each in decoded if isinstance(each, Flashblock))
    if not flashblocks or flashblocks[0].index != 0 or flashblocks[0].base is None:
        raise ConfigError(f"capture {path}: payload {name} does not begin with a flashblock 0 that has a base")
    return CapturedPayload(name, lines, flashblocks)


def _transactions(each: Flashblock) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(raw, type=str) for raw in each.diff.transactions) if each.diff else ()


def _withdrawals(each: Flashblock) -> list[msgspec.Raw]:
    return each.diff.withdrawals if each.diff else []
