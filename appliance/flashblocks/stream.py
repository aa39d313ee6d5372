"""What one builder has sent of one payload: the structural rules.

Taken are flashblocks with the next index, from 0. A wrong index is ignored and state kept (rollup-boost's
flashblocks specification); what breaks another rule stops the stream for this payload, because what comes
after it builds on what was refused.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock, FlashblockBase
from appliance.domain.payloads import PayloadId
from appliance.flashblocks.commands import Dropped, Paused, Reason

MAX_FLASHBLOCKS: Final = 1024
"""Bound per payload and builder; a 12 s block with one every 50 ms has 240. More stop the stream."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""Bound of message bytes per payload and builder; production has under 2 MiB. More stop the stream."""


@dataclass(slots=True, eq=False)
class BuilderStream:
    """The flashblocks 0..next_index-1 of one payload id from one builder's connection.

    ``whole`` refuses what cannot be assembled to a block (execution mode). ``validated`` counts the
    leading flashblocks that the EL called VALID. ``refused`` says why nothing more is taken. ``arrivals``
    are the clock's seconds. ``asked`` is the block of the last question to the EL, ``valid`` that of the last VALID.
    """

    builder: str
    payload_id: PayloadId
    whole: bool
    flashblocks: list[Flashblock] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    block_hashes: list[str] = field(default_factory=list)
    next_index: int = 0
    highest_index: int = -1
    validated: int = 0
    asked: AssembledPayload | None = None
    valid: AssembledPayload | None = None
    tries: int = 0
    size: int = 0
    gapped: bool = False
    refused: Reason | None = None
    build: tuple[str, int] | None = None

    def take(self, flashblock: Flashblock, now: float) -> Reason | None:
        """Keep the flashblock, or say why not."""
        self.highest_index = max(self.highest_index, flashblock.index)
        if self.refused is not None:
            return Reason.PAUSED
        if flashblock.index < self.next_index:
            return self._again(flashblock)
        if flashblock.index > self.next_index:
            self.gapped = True
            return Reason.GAP
        self.refused = self._fault(flashblock)
        if self.refused is None:
            self._keep(flashblock, now)
        return self.refused

    def take_and_tell(self, flashblock: Flashblock, now: float, *, published: bool) -> list[Dropped | Paused]:
        """`take`, with what is to be known of it; ``published`` says whether subscribers follow this stream."""
        before = (self.refused, self.gapped)
        reason = self.take(flashblock, now)
        if reason is None:
            return []
        notes: list[Dropped | Paused] = [Dropped(reason, self.builder, self.payload_id, flashblock.index)]
        if (self.refused, self.gapped) != before:
            notes.append(Paused(reason, self.builder, self.payload_id, flashblock.index, published))
        return notes

    def bind(self, parent_hash: str, timestamp: int) -> None:
        """Say which build the payload id was announced for; early flashblocks of another one are refused."""
        self.build = (parent_hash.lower(), timestamp)
        if self.refused is None and self._is_of_other_build(self.base):
            self.refuse(Reason.WRONG_BUILD)
            self.flashblocks.clear()

    def refuse(self, reason: Reason) -> None:
        """Take nothing more, and forget what the EL has not called VALID yet."""
        self.refused = reason
        del self.flashblocks[self.validated :]

    def note_late(self, flashblock: Flashblock) -> None:
        """After the fence: remember the block's hash (the builder's own block may have it), not the body."""
        self.highest_index = max(self.highest_index, flashblock.index)
        in_order = self.refused is None and flashblock.index == self.next_index
        if in_order and flashblock.diff is not None and self.next_index < MAX_FLASHBLOCKS:
            self.block_hashes.append(flashblock.diff.block_hash.lower())
            self.next_index += 1

    @property
    def base(self) -> FlashblockBase | None:
        """The base that holds for the payload."""
        return self.flashblocks[0].base if self.flashblocks else None

    def _again(self, flashblock: Flashblock) -> Reason:
        if self.flashblocks[flashblock.index].body == flashblock.body:
            return Reason.DUPLICATE
        # Which of the two the builder goes on from is not known.
        self.refused = Reason.EQUIVOCATION
        return Reason.EQUIVOCATION

    def _fault(self, flashblock: Flashblock) -> Reason | None:
        if self.next_index >= MAX_FLASHBLOCKS or self.size + len(flashblock.body) > MAX_BYTES:
            return Reason.TOO_MUCH
        if self.whole and flashblock.diff is None:
            return Reason.DIFF_MISSING
        return self._base_fault(flashblock) or self._block_number_fault(flashblock)

    def _base_fault(self, flashblock: Flashblock) -> Reason | None:
        base = flashblock.base
        if flashblock.index:
            return None if base is None or base == self.base else Reason.BASE_CHANGED
        if base is None:
            return Reason.BASE_MISSING if self.whole else None
        return Reason.WRONG_BUILD if self._is_of_other_build(base) else None

    def _is_of_other_build(self, base: FlashblockBase | None) -> bool:
        if base is None or self.build is None:
            return False
        return (base.parent_hash.lower(), int(base.timestamp, 16)) != self.build

    def _block_number_fault(self, flashblock: Flashblock) -> Reason | None:
        number = flashblock.block_number
        if not self.flashblocks:
            return Reason.BLOCK_NUMBER if number is None else None
        return None if number in (None, self.flashblocks[0].block_number) else Reason.BLOCK_NUMBER

    def _keep(self, flashblock: Flashblock, now: float) -> None:
        if flashblock.block_number is None:
            flashblock = replace(flashblock, block_number=self.flashblocks[0].block_number)
        self.flashblocks.append(flashblock)
        self.arrivals.append(now)
        self.block_hashes.append(flashblock.diff.block_hash.lower() if flashblock.diff else "")
        self.next_index += 1
        self.size += len(flashblock.body)
        self.gapped = False
