"""One subscriber: what has been sent to it, what is half sent, and when it has to answer.

    stage         who writes                        ends when
    HEAD          the hub, one whole frame each     a send would block or is short -> CATCHING_UP
    WAITING       the hub, control frames only      an entry new to it comes -> HEAD or CATCHING_UP
    CATCHING_UP   its own writer task               nothing is half sent and it stands where the hub does
    CLOSING       its own writer task, if needed    the close frame has gone, the other side closes, deadline
    GONE          nobody                            -

Frames must not interleave. The rule that keeps them apart: bytes that the kernel did not take become the
*tail*; while there is a tail nothing else is written, and control frames wait in one place each (the
latest pong, one ping, one close; for notices a number on a board), so a subscriber can fill nothing. Only a
writer task waits for the socket; everybody else writes at once or leaves it to that task.

Pure: the socket is anything with a non-blocking `send`, time comes in as ``now`` (monotonic seconds).
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum, auto

from appliance.fanout import frames
from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.marks import Mark, describe
from appliance.fanout.notices import Notices
from appliance.fanout.ports import Wire


class Stage(Enum):
    """See the table above."""

    HEAD = auto()
    WAITING = auto()
    CATCHING_UP = auto()
    CLOSING = auto()
    GONE = auto()


class Due(Enum):
    """What time demands of a session."""

    NOTHING = auto()
    PING = auto()
    PONG_OVERDUE = auto()
    CLOSE_OVERDUE = auto()


class _AtHand:
    """What a broadcast reads and writes of each session, side by side: of 9,000 none is in the processor's caches.

    CPython lays slots out by their names; those of a base class come first, in the cache line of the object's head.
    """

    __slots__ = ("mark", "stage", "wire")

    mark: Mark
    stage: Stage
    wire: Wire


class Session(_AtHand):
    """One subscriber's connection. ``drop`` ends it at once, without a close frame.

    ``mark`` is the last entry handed to the kernel, wholly or in part, or passed over because it did not pass the
    ``filter``; ``skip`` the (block_number, index) through which the subscriber has seen the stream elsewhere while
    this log is behind.
    """

    __slots__ = (
        "_close",
        "_ping",
        "_pong",
        "_tail",
        "allowed_lag",
        "awaiting_pong_since",
        "close_deadline",
        "close_received",
        "close_sent",
        "drop",
        "filter",
        "has_writer",
        "next_due_at",
        "next_ping_at",
        "notices",
        "skip",
        "variant",
    )

    def __init__(
        self,
        wire: Wire,
        variant: Variant,
        mark: Mark,
        skip: tuple[int, int] | None,
        *,
        next_ping_at: float,
        drop: Callable[[], None],
        wanted: Filter | None = None,
    ) -> None:
        self.wire = wire
        self.variant = variant
        self.mark = mark
        self.skip = skip
        self.drop = drop
        self.filter = wanted
        self.notices: Notices | None = None
        self.stage = Stage.CATCHING_UP
        self.has_writer = False
        self.allowed_lag = 0
        self.next_ping_at = next_ping_at
        self.next_due_at = next_ping_at  # nothing is due earlier; see `plan`
        self.awaiting_pong_since: float | None = None
        self.close_deadline: float | None = None
        self.close_sent = False
        self.close_received = False
        self._tail: memoryview | None = None
        self._pong: bytes | None = None
        self._ping = False
        self._close: bytes | None = None

    @property
    def resume_from(self) -> str:
        """Where this subscriber goes on when it comes back; empty when it has seen nothing yet."""
        return describe(self.mark.key, self.mark.payload_id) if self.skip is None else describe(self.skip)

    @property
    def at_boundary(self) -> bool:
        """Nothing is half sent and no control frame waits, so that an entry may be sent."""
        return self._tail is None and self._pong is None and not self._ping and self._close is None

    @property
    def closed(self) -> bool:
        """Both close frames have gone their way: the connection may end."""
        return self.close_sent and self.close_received

    def skips(self, key: tuple[int, int]) -> bool:
        """Whether an entry is one that the subscriber has seen elsewhere; the first new one ends it for good."""
        if self.skip is None:
            return False
        if key <= self.skip:
            return True
        self.skip = None
        return False

    def offer(self, frames: Sequence[bytes], marks: Sequence[Mark]) -> int:
        """Send entries' frames in one system call, at a boundary: how many were taken, the last perhaps in part.

        Whether a part is left over shows in `at_boundary`; what was not begun is not remembered.
        """
        try:
            sent = self.wire.send(frames[0]) if len(frames) == 1 else self.wire.sendmsg(frames)
        except BlockingIOError:
            return 0
        for number, frame in enumerate(frames):
            if sent <= 0:
                return number
            self.accepted(frame, min(sent, len(frame)), marks[number])
            sent -= len(frame)
        return len(frames)

    def accepted(self, frame: bytes, sent: int, mark: Mark) -> bool:
        """Note that the kernel took ``sent`` bytes of an entry's frame; True when that was all."""
        if sent:
            self.mark = mark
            if sent < len(frame):
                self._tail = memoryview(frame)[sent:]
        return sent == len(frame)

    def flush(self) -> bool:
        """Send the tail, then the control frames that wait. False when the socket would not take them all."""
        while (rest := self._tail or self._next_control()) is not None:
            self._tail = rest
            try:
                sent = self.wire.send(rest)
            except BlockingIOError:
                return False
            if sent < len(rest):
                self._tail = rest[sent:]
                return False
            self._tail = None
        self.close_sent = self.stage is Stage.CLOSING
        return True

    def _next_control(self) -> memoryview | None:
        data = self._pong or b""
        if self._ping:
            data += frames.PING
        if self._close is not None:
            data += self._close
        elif self.notices is not None and self.stage is not Stage.CLOSING:
            data += self.notices.take(self.mark.position)
        self._pong, self._ping, self._close = None, False, None
        return memoryview(data) if data else None

    def queue_pong(self, payload: bytes) -> None:
        """Answer a ping; of several unanswered ones only the latest (RFC 6455, 5.5.3)."""
        self._pong = frames.pong(payload)

    def queue_ping(self, now: float, interval_s: float) -> None:
        """Ask for a sign of life, and plan the next time."""
        self._ping = True
        self.next_ping_at = now + interval_s
        if self.awaiting_pong_since is None:
            self.awaiting_pong_since = now

    def queue_close(self, code: int | None, reason: str, deadline: float) -> None:
        """Close after what is half sent; a ping or pong that waits is pointless now."""
        self.stage = Stage.CLOSING
        self._pong, self._ping = None, False
        self._close = frames.close(code, reason)
        self.close_deadline = self.next_due_at = deadline

    def heard(self) -> None:
        """Something came from the subscriber, or its acknowledgements made room in the socket: it is alive."""
        self.awaiting_pong_since = None

    def due(self, now: float, pong_timeout_s: float) -> Due:
        """What has to be done now. A ping that cannot be sent counts as unanswered all the same."""
        if self.stage is Stage.CLOSING:
            overdue = self.close_deadline is not None and now >= self.close_deadline
            return Due.CLOSE_OVERDUE if overdue else Due.NOTHING
        if self.awaiting_pong_since is not None and now - self.awaiting_pong_since >= pong_timeout_s:
            return Due.PONG_OVERDUE
        return Due.PING if now >= self.next_ping_at else Due.NOTHING

    def plan(self, pong_timeout_s: float) -> None:
        """Note when `due` is worth asking next, so that a sweep over all is one comparison for each."""
        if self.stage is not Stage.CLOSING:
            since = self.awaiting_pong_since
            overdue_at = math.inf if since is None else since + pong_timeout_s
            self.next_due_at = min(self.next_ping_at, overdue_at)
