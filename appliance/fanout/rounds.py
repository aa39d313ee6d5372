"""The inner loop of fan-out: one ready frame to each socket of a group, in slices. Pure but for the sends.

Of some 12 us that a delivery costs, 10 are the kernel's (TRAPS); everything per subscriber is in `_serve`, and
it only reads two attributes, sends, and writes one.
"""

from collections.abc import Callable

from appliance.fanout.hub import Hub
from appliance.fanout.marks import Mark
from appliance.fanout.session import Session, Stage


class Round:
    """The delivery of one broadcast to the sessions of one variant.

    ``frame`` may be the frames of several ``entries`` in a row: one send hands over all of them. ``at_a_time`` sends
    are made between two looks at the clock; a look costs a hundredth of a send.
    """

    __slots__ = ("_after", "_at_a_time", "_before", "_entries", "_frame", "_hub", "_members", "_next")

    def __init__(
        self,
        hub: Hub,
        members: list[Session],
        frame: bytes,
        *,
        entries: int,
        before: Mark,
        after: Mark,
        at_a_time: int = 1,
    ) -> None:
        self._hub = hub
        self._members = members
        self._frame = frame
        self._entries = entries
        self._before = before
        self._after = after
        self._at_a_time = at_a_time
        self._next = 0

    def run(self, clock: Callable[[], float], until: float) -> bool:
        """Deliver until ``clock`` reaches ``until``, at least to one; True when all have been served."""
        members, step = self._members, self._at_a_time
        passed, reached = 0, len(members)
        for begin in range(self._next, len(members), step):
            passed += self._serve(members[begin : begin + step])
            if clock() >= until:
                reached = min(begin + step, reached)
                break
        return self._pause(reached, passed)

    def _serve(self, members: list[Session]) -> int:
        """How many did not get it from us: they left the head, or their writers were faster."""
        frame, size = self._frame, len(self._frame)
        before, after, head = self._before, self._after, Stage.HEAD
        passed = 0
        for session in members:
            if session.stage is head and session.mark is before:
                try:
                    sent = session.wire.send(frame)
                except OSError as error:
                    passed += 1
                    self._refused(session, error)
                else:
                    if sent == size:
                        session.mark = after
                    else:
                        self._hub.fell_behind(session, frame, sent, after)
            else:
                passed += 1
        return passed

    def _refused(self, session: Session, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self._hub.fell_behind(session, self._frame, 0, self._after)
        else:
            self._hub.lost(session)

    def _pause(self, reached: int, passed: int) -> bool:
        delivered = reached - self._next - passed
        self._next = reached
        metrics = self._hub.metrics
        metrics.sent_messages.add(delivered * self._entries)
        metrics.bytes_broadcasted.add(delivered * len(self._frame))
        return reached >= len(self._members)
