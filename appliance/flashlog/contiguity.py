"""What may be appended: the rule that keeps every payload contiguous, and the life of a payload's state.

held of the payload     index given        verdict
nothing                 0                  next
0 .. n-1                n                  next
0 .. n-1                0 .. n-1           held: equal bodies are one entry, different ones equivocation
anything                anything else      OutOfOrderError
"""

from dataclasses import dataclass

from appliance.domain.errors import LogError, OutOfOrderError
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId, PayloadState

GREATEST_NUMBER = 2**63 - 1
"""SQLite integers are signed 64-bit; a block number beyond that is nonsense and is refused as such."""


@dataclass(frozen=True, slots=True)
class HeldPayload:
    """What the log holds of one payload: indices 0 to ``entries`` - 1, all of one block number."""

    block_number: int
    entries: int


def admit(held: HeldPayload | None, flashblock: Flashblock) -> int | None:
    """Return the block number to append ``flashblock`` under, or None when its index is held already.

    Raises OutOfOrderError for a gap, and for a block number that is missing on index 0, that is out of
    range, or that differs from the payload's: subscribers name places by (block_number, index).
    """
    expected = held.entries if held else 0
    if 0 <= flashblock.index < expected:
        return None
    if flashblock.index != expected:
        raise _refused(flashblock, f"expected index {expected}")
    if held is not None:
        return _same_number(held, flashblock)
    return _first_number(flashblock)


def _first_number(flashblock: Flashblock) -> int:
    number = flashblock.block_number
    if number is None:
        raise _refused(flashblock, "it has no block number")
    if not 0 <= number <= GREATEST_NUMBER:
        raise _refused(flashblock, f"block number {number} is out of range")
    return number


def _same_number(held: HeldPayload, flashblock: Flashblock) -> int:
    if flashblock.block_number not in (None, held.block_number):
        raise _refused(flashblock, f"block number {flashblock.block_number} is not the payload's {held.block_number}")
    return held.block_number


def _refused(flashblock: Flashblock, why: str) -> OutOfOrderError:
    return OutOfOrderError(f"flashblock {flashblock.index} of payload {flashblock.payload_id}: {why}")


_FOLLOWERS = {
    PayloadState.BUILDING: {PayloadState.SEALED, PayloadState.LANDED, PayloadState.DROPPED},
    PayloadState.SEALED: {PayloadState.LANDED, PayloadState.DROPPED},
    # a reorg of the unsafe chain takes a block out of the chain, and may bring it back
    PayloadState.LANDED: {PayloadState.DROPPED},
    PayloadState.DROPPED: {PayloadState.LANDED},
}


def check_transition(payload_id: PayloadId, current: PayloadState, wanted: PayloadState) -> None:
    """Raise LogError where ``wanted`` cannot follow ``current``; the same state again is fine."""
    if wanted is not current and wanted not in _FOLLOWERS[current]:
        raise LogError(f"payload {payload_id} is {current.value} and cannot become {wanted.value}")
