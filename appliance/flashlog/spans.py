"""Facts about the log that the pure rules (locate, retention) decide on."""

from dataclasses import dataclass

from appliance.domain.payloads import PayloadId, PayloadState


@dataclass(frozen=True, slots=True)
class Span:
    """One payload as a stretch of the log; positions are inclusive, ``appended_at`` is wall clock seconds."""

    payload_id: PayloadId
    block_number: int
    first_position: int
    last_position: int
    bytes: int
    appended_at: float


@dataclass(frozen=True, slots=True)
class PrunedMark:
    """What retention removed: everything up to ``position``, whose entry was (payload_id, index).

    ``highest`` is the greatest (block_number, index) removed.
    """

    position: int
    payload_id: PayloadId
    block_number: int
    index: int
    highest: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the log holds; ``bytes`` is what retention counts, not the size of the file."""

    payloads: int
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Space:
    """The file in pages of ``page_bytes``; free ones are used again before the file grows."""

    page_bytes: int
    pages: int
    free_pages: int

    @property
    def free_bytes(self) -> int:
        """Bytes of the file that hold nothing."""
        return self.page_bytes * self.free_pages


@dataclass(frozen=True, slots=True)
class PayloadRecord:
    """One payload's life. Times are wall clock seconds; ``ended_at`` is when it landed or was dropped."""

    payload_id: PayloadId
    block_number: int
    builder: str
    state: PayloadState
    block_hash: str | None
    entries: int
    opened_at: float
    appended_at: float
    sealed_at: float | None
    ended_at: float | None
