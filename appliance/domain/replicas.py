"""Flashblocks on their way between the logs of two hosts."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.payloads import PayloadId

PREFIX_BYTES = 32


def extend_prefix(prefix: bytes, body: bytes, encoding: Encoding) -> bytes:
    """The digest of a payload's flashblocks up to one of them, from that of those before it (b"" for none).

    SHA-256(prefix || SHA-256(encoding || 0x00 || body)). Two logs that have the same prefix at an index hold the same
    bodies in the same encodings from index 0 up to it: the same *branch*.
    """
    own = hashlib.sha256(encoding.value.encode() + b"\0" + body).digest()
    return hashlib.sha256(prefix + own).digest()


class Replica(Protocol):
    """One entry as another host's log has it. ``position`` is that log's; ``body`` is None where it was left out."""

    @property
    def position(self) -> int: ...
    @property
    def payload_id(self) -> PayloadId: ...
    @property
    def index(self) -> int: ...
    @property
    def block_number(self) -> int: ...
    @property
    def encoding(self) -> Encoding: ...
    @property
    def builder(self) -> str: ...
    @property
    def received_at(self) -> float: ...
    @property
    def body(self) -> bytes | None: ...
    @property
    def prefix(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of this host's log with all that another host needs. ``received_at`` is wall clock seconds."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes
    prefix: bytes

    @property
    def entry(self) -> Entry:
        """What subscribers see of it."""
        return Entry(self.position, self.payload_id, self.index, self.block_number, self.body, self.encoding)


@dataclass(frozen=True, slots=True)
class Copy:
    """A `Replica` as it came from a peer, with its time by this host's wall clock."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes | None
    prefix: bytes


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a log was followed: everything up to ``position`` of the log with this id has been dealt with."""

    log_id: str
    position: int


class Verdict(StrEnum):
    """What a log made of another host's entry."""

    NEW = "new"  # inserted at the end
    HELD = "held"  # the same entry, on the same branch, is here already
    REFUSED = "refused"  # another body, or one on another branch: kept as evidence
    OUT_OF_ORDER = "out_of_order"  # its predecessor is not here
    CLOSED = "closed"  # the payload was closed at this index or before it
    NEED_BODY = "need_body"  # it came without a body, and is not here
    PASSED = "passed"  # retention has removed its payload here, and does not want it back


@dataclass(frozen=True, slots=True)
class Receipt:
    """The verdict on one entry; ``position`` is this log's, for NEW and HELD.

    ``is_sibling``, for REFUSED and CLOSED: this log has the same predecessor, so only from this index on it is another
    branch.
    """

    verdict: Verdict
    position: int | None = None
    is_sibling: bool = False


@dataclass(frozen=True, slots=True)
class Replaced:
    """What took the place of a branch: how many entries went, how many of them had been shown, what came."""

    removed: int
    shown: int
    receipts: tuple[Receipt, ...] = ()
