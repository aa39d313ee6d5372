"""Flashblocks whose payload id no builder's forkchoice_updated answer has named yet.

The first flashblock often overtakes that answer, which comes over another connection. They wait here,
already under the structural rules, each builder with room of its own, so that one cannot push out what
another one sent.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId
from appliance.flashblocks.commands import Dropped, Paused, Reason
from appliance.flashblocks.stream import BuilderStream

MAX_PAYLOADS: Final = 4
"""Payload ids that wait per builder. One more pushes out the oldest: a newer one is likelier announced."""

MAX_FLASHBLOCKS: Final = 64
"""Flashblocks that wait per payload (12 s of the usual rate). Further ones are dropped, and leave a gap."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""Message bytes that wait per payload. A flashblock beyond is dropped, and leaves a gap."""

MAX_AGE_S: Final = 10.0
"""How long a payload waits, in seconds: longer than the timeout of any forkchoice_updated."""


@dataclass(slots=True, eq=False)
class _Waiting:
    stream: BuilderStream
    since: float


class EarlyBuffer:
    """Streams that wait for their payload id, per builder in order of arrival."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._builders: dict[str, OrderedDict[PayloadId, _Waiting]] = {}

    def __len__(self) -> int:
        return sum(
            len(waiting.stream.flashblocks) for payloads in self._builders.values() for waiting in payloads.values()
        )

    def add(self, builder: str, flashblock: Flashblock, now: float) -> list[Dropped | Paused]:
        """Keep it; what had to give way, or was refused, is in the answer."""
        payloads = self._builders.setdefault(builder, OrderedDict())
        notes: list[Dropped | Paused] = []
        if flashblock.payload_id not in payloads:
            if len(payloads) >= MAX_PAYLOADS:
                notes += _given_up(payloads.popitem(last=False)[1])
            stream = BuilderStream(builder, flashblock.payload_id, whole=self._whole)
            payloads[flashblock.payload_id] = _Waiting(stream, now)
        return notes + _take(payloads[flashblock.payload_id].stream, flashblock, now)

    def pop(self, builder: str, payload_id: PayloadId) -> BuilderStream | None:
        """The stream that was waiting for this answer."""
        waiting = self._builders.get(builder, OrderedDict()).pop(payload_id, None)
        return waiting.stream if waiting else None

    def expire(self, now: float) -> list[Dropped]:
        """Give up what has waited too long."""
        notes: list[Dropped] = []
        for payloads in self._builders.values():
            while payloads and now - next(iter(payloads.values())).since > MAX_AGE_S:
                notes += _given_up(payloads.popitem(last=False)[1])
        return notes


def _take(stream: BuilderStream, flashblock: Flashblock, now: float) -> list[Dropped | Paused]:
    if len(stream.flashblocks) >= MAX_FLASHBLOCKS or stream.size + len(flashblock.body) > MAX_BYTES:
        return [Dropped(Reason.UNANNOUNCED, stream.builder, stream.payload_id, flashblock.index)]
    return stream.take_and_tell(flashblock, now, published=False)


def _given_up(waiting: _Waiting) -> list[Dropped]:
    stream = waiting.stream
    if not stream.flashblocks:
        return []
    count = len(stream.flashblocks)
    return [Dropped(Reason.UNANNOUNCED, stream.builder, stream.payload_id, 0, count)]
