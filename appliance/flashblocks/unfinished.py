"""Payloads that an earlier process had shown when it ended: the head of the chain tells what became of them.

head                                    the payload
--------------------------------------  ------------------------------------------------------------
is the block of its last flashblock     landed
is another block, as high or higher     dropped: that the block is under this head cannot be seen here
is lower, or its height is not known    still open: the payload may be built and shown again
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from appliance.domain.payloads import PayloadId, PayloadState

MAX_UNFINISHED: Final = 64
"""Payloads followed: one process leaves one or two. Older ones keep the state that they have in the log."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """``block_hash`` is that of its last flashblock that was shown; None where it names none."""

    payload_id: PayloadId
    block_number: int
    block_hash: str | None


class UnfinishedPayloads:
    """Those whose fate is open."""

    def __init__(self) -> None:
        self._open: dict[PayloadId, Unfinished] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, payloads: Iterable[Unfinished]) -> None:
        """Follow these, the newest `MAX_UNFINISHED` of them."""
        newest = list(payloads)[-MAX_UNFINISHED:]
        self._open = {payload.payload_id: payload for payload in newest}

    def discard(self, payload_id: PayloadId) -> None:
        """This process shows the payload itself."""
        self._open.pop(payload_id, None)

    def judge(self, block_hash: str, block_number: int | None) -> list[tuple[Unfinished, PayloadState]]:
        """Those whose fate this head decides; they are followed no longer."""
        decided = [(payload, _fate(payload, block_hash, block_number)) for payload in self._open.values()]
        found = [(payload, state) for payload, state in decided if state is not None]
        for payload, _ in found:
            del self._open[payload.payload_id]
        return found


def _fate(payload: Unfinished, block_hash: str, block_number: int | None) -> PayloadState | None:
    if block_hash == payload.block_hash:
        return PayloadState.LANDED
    if block_number is not None and block_number >= payload.block_number:
        return PayloadState.DROPPED
    return None
