"""Flashblocks to put into a log, and a simple model of what a log must do."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import brotli

from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError
from appliance.domain.flashblocks import Encoding, Entry, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.flashlog.rows import Arrival
from appliance.flashlog.store import Appended, Store
from appliance.wire.flashblock import decode

DATA = Path(__file__).parents[1] / "data"


def payload_id(number: int) -> PayloadId:
    return PayloadId(f"0x{number:016x}")


def flashblock(
    payload: int,
    index: int,
    *,
    block: int | None = None,
    text: str = "",
    size: int = 0,
    encoding: Encoding = Encoding.TEXT,
) -> Flashblock:
    """A small flashblock that decodes; its block number is 1000 + payload unless ``block`` is given."""
    number = 1000 + payload if block is None else block
    fields = {
        "payload_id": payload_id(payload),
        "index": index,
        "metadata": {"block_number": number},
        "note": text + "." * size,
    }
    body = json.dumps(fields).encode()
    if encoding is Encoding.BROTLI:
        body = brotli.compress(body, quality=1)
    return Flashblock(payload_id(payload), index, number, None, None, body, encoding)


def real_flashblocks() -> list[Flashblock]:
    """The five flashblocks of a real Unichain Sepolia block."""
    lines = (DATA / "flashblocks" / "unichain-sepolia-35535698.jsonl").read_bytes().splitlines()
    return [decoded for line in lines if isinstance(decoded := decode(line, Encoding.TEXT), Flashblock)]


def without_number(original: Flashblock) -> Flashblock:
    return replace(original, block_number=None)


def store_append(store: Store, item: Flashblock, builder: str = "a", now: float = 0.0) -> Appended:
    """Append in a transaction of its own; raises what the job raised."""
    (outcome,) = store.apply([lambda s: s.append(Arrival(item, builder, now))])
    if isinstance(outcome, LogError):
        raise outcome
    assert isinstance(outcome, Appended)
    return outcome


@dataclass
class Model:
    """A log as a dict and a list: what the real one is compared with."""

    entries: list[Entry] = field(default_factory=list)
    by_key: dict[tuple[PayloadId, int], Entry] = field(default_factory=dict)
    last_position: int = 0

    def append(self, item: Flashblock) -> Entry:
        """Return the entry, or raise what the log must raise."""
        held = self.by_key.get((item.payload_id, item.index))
        if held is not None:
            if (held.body, held.encoding) != (item.body, item.encoding):
                raise EquivocationError("model")
            return held
        if item.index != 0 and (item.payload_id, item.index - 1) not in self.by_key:
            raise OutOfOrderError("model")
        assert item.block_number is not None
        self.last_position += 1
        entry = Entry(self.last_position, item.payload_id, item.index, item.block_number, item.body, item.encoding)
        self.entries.append(entry)
        self.by_key[item.payload_id, item.index] = entry
        return entry

    def remove_through(self, position: int) -> None:
        self.entries = [entry for entry in self.entries if entry.position > position]
        self.by_key = {(entry.payload_id, entry.index): entry for entry in self.entries}


def assert_contiguous(entries: list[Entry]) -> None:
    """Every payload from index 0 without a gap, in log order; positions grow."""
    following: dict[PayloadId, int] = {}
    position = 0
    for entry in entries:
        assert entry.position > position
        assert entry.index == following.get(entry.payload_id, 0)
        position, following[entry.payload_id] = entry.position, entry.index + 1
