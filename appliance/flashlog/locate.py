"""Where a subscriber that names a place in the stream goes on reading.

Log order decides, not the order of keys: after a reorg two payloads have one block number, or the number
goes back. A key says nothing about which of them the subscriber has seen, so it means its first occurrence: some
entries come again, none is left out. A key that is not held means "before the first entry that is greater".
A payload id and an index name one entry. Where the payload has not come to this host yet, or is not committed here,
its block number says through where the subscriber has seen the stream elsewhere.

Retention never changes an answer; it turns it into PrunedError where an entry that was due may be gone. For a
key that is so when it is not greater than the greatest key removed, because an occurrence of it may have been
removed; for a payload, unless it is exactly the last entry removed.
"""

from dataclasses import dataclass
from typing import Protocol

from appliance.domain.errors import PrunedError
from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, Located, Resume
from appliance.flashlog.spans import PrunedMark, Span


@dataclass(frozen=True, slots=True)
class Oldest:
    """The first entry that is held; its index is 0, because whole payloads are removed."""

    position: int
    key: tuple[int, int]


class LogIndex(Protocol):
    """What the rule asks of a log; all of it as of ``head``: entries after it do not exist yet."""

    @property
    def head(self) -> int: ...
    def pruned(self) -> PrunedMark | None: ...
    def oldest(self) -> Oldest | None: ...
    def newest(self) -> Span | None:
        """The payload of the last entry: one that was resumed may have begun before another one."""
        ...

    def payload(self, payload_id: PayloadId) -> Span | None: ...
    def waiting(self, payload_id: PayloadId) -> int | None:
        """The block number of a payload of which nothing is visible yet, but something is held."""
        ...

    def position_of(self, payload_id: PayloadId, index: int) -> int | None: ...
    def first_position_of(self, key: tuple[int, int]) -> int | None: ...
    def first_position_beyond(self, key: tuple[int, int]) -> int | None: ...


def locate(index: LogIndex, resume: Resume) -> Located:
    """Return where ``resume`` goes on; raises PrunedError where entries that are due are not held."""
    if isinstance(resume, AfterBlock):
        return _after_block(index, (resume.block_number, resume.index))
    if isinstance(resume, AfterPayload):
        return _after_payload(index, resume)
    newest = index.newest()
    return Located(newest.first_position - 1 if newest else index.head)


def _after_block(index: LogIndex, key: tuple[int, int]) -> Located:
    mark = index.pruned()
    if mark is not None and key <= mark.highest:
        raise _pruned(index, f"{_shown(key)} is not in the log any more")
    held = index.first_position_of(key)
    if held is not None:
        return Located(held)
    beyond = index.first_position_beyond(key)
    if beyond is None:
        return Located(index.head, skip_through=key)
    if mark is None:
        _check_not_before_the_log(index, key, beyond)
    return Located(beyond - 1)


def _check_not_before_the_log(index: LogIndex, key: tuple[int, int], beyond: int) -> None:
    oldest = index.oldest()
    if oldest is None or beyond != oldest.position:
        return
    if key != (oldest.key[0], -1):  # the start of the oldest block is the one place without a gap
        raise _pruned(index, f"{_shown(key)} is before this log's first entry")


def _after_payload(index: LogIndex, resume: AfterPayload) -> Located:
    span = index.payload(resume.payload_id)
    if span is None:
        return _after_unknown_payload(index, resume)
    if resume.index < 0:
        return Located(span.first_position - 1)
    held = index.position_of(resume.payload_id, resume.index)
    if held is not None:
        return Located(held)
    newest = index.newest()
    if newest is not None and newest.payload_id == resume.payload_id:
        return Located(index.head, skip_through=(span.block_number, resume.index))
    return Located(span.last_position)


def _after_unknown_payload(index: LogIndex, resume: AfterPayload) -> Located:
    mark = index.pruned()
    if mark is not None and mark.payload_id == resume.payload_id and resume.index >= mark.index:
        return Located(mark.position)
    number = index.waiting(resume.payload_id)
    was_here = mark is not None and mark.payload_id == resume.payload_id
    if number is None and not was_here and resume.block_number is not None and _is_ahead(index, resume.block_number):
        number = resume.block_number
    if number is not None:
        return Located(index.head, skip_through=(number, resume.index))
    raise _pruned(index, f"payload {resume.payload_id} is not in the log")


def _is_ahead(index: LogIndex, block_number: int) -> bool:
    """Whether this host has seen nothing of the block or of a later one: the payload is still on its way here."""
    mark = index.pruned()
    if mark is not None and mark.highest[0] >= block_number:
        return False
    return index.first_position_of((block_number, 0)) is None and index.first_position_beyond((block_number, 0)) is None


def _pruned(index: LogIndex, why: str) -> PrunedError:
    oldest = index.oldest()
    if oldest is None:
        return PrunedError(f"{why}; nothing is held")
    return PrunedError(f"{why}; the oldest held is {_shown(oldest.key)}", oldest.key)


def _shown(key: tuple[int, int]) -> str:
    """A place in words; before index 0 is the start of the block."""
    return f"block {key[0]} index {key[1]}" if key[1] >= 0 else f"block {key[0]}"
