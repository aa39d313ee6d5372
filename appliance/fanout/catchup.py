"""The writer task of a session that is not at the head: finishes what is half sent, then reads the log.

Slow start protection. After an outage thousands catch up at once, and each of their tasks is ready to run
nearly always. Work is done in *turns* of at most `TURN_S`, and only `CONCURRENT_TURNS` tasks may be at it in
one pass of the event loop; the others queue, first come first served. So a pass lasts about a millisecond
however many there are. While a broadcast is under way there is one turn in a pass: those at the head come
first, and the others still get on when one broadcast follows another.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from enum import Enum, auto

import trio

from appliance.domain.errors import ApplianceError, PrunedError
from appliance.fanout.backlog import Backlog
from appliance.fanout.frames import RunSync
from appliance.fanout.framesets import FrameSet
from appliance.fanout.hub import INTERNAL_ERROR, Hub
from appliance.fanout.session import Session, Stage
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

TURN_S = 0.000_25
CONCURRENT_TURNS = 2


class Outcome(Enum):
    """Why a turn ended."""

    FINISHED = auto()  # back at the head, or closed: the task ends
    BLOCKED = auto()  # the socket is full
    NEEDS_ENTRIES = auto()
    NEEDS_FRAME = auto()
    NEEDS_VERDICT = auto()  # it takes a search whether the next entry passes the filter
    OUT_OF_TIME = auto()


def turn(hub: Hub, session: Session, backlog: deque[FrameSet], clock: Callable[[], float], until: float) -> Outcome:
    """Send what can be sent now. Entries that have been sent are taken from the left of ``backlog``. Pure.

    Never goes beyond the hub's mark: what comes after it will be broadcast, and either the session is
    back at the head by then, or it is served from the log.
    """
    while session.flush():
        if session.stage is not Stage.CATCHING_UP or hub.rejoin(session):
            hub.end_if_closed(session)
            return Outcome.FINISHED
        if clock() >= until:
            return Outcome.OUT_OF_TIME
        if not backlog:
            return Outcome.NEEDS_ENTRIES
        outcome = _send_next(hub, session, backlog)
        if outcome is not None:
            return outcome
    return Outcome.BLOCKED


def _send_next(hub: Hub, session: Session, backlog: deque[FrameSet]) -> Outcome | None:
    item = backlog[0]
    wanted = not session.skips(item.entry.key)
    if wanted and session.filter is not None:
        verdict = item.examined.verdict(session.filter)
        if verdict is None:
            return Outcome.NEEDS_VERDICT
        wanted = verdict
    if not wanted:
        session.mark = item.mark
        backlog.popleft()
        return None
    frame = item.ready(session.variant)
    if frame is None:
        return Outcome.NEEDS_FRAME
    done = session.offer(frame, item.mark)
    if session.mark is item.mark:
        hub.metrics.sent_messages.add()
        hub.metrics.bytes_broadcasted.add(len(frame))
        backlog.popleft()
    return None if done else Outcome.BLOCKED


class Turns:
    """Who may work now: fewer while those at the head are served."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(CONCURRENT_TURNS)

    def take(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn, first come, first served."""
        return self._limiter

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """While this lasts, one turn at a time."""
        self._limiter.total_tokens = 1
        try:
            yield
        finally:
            self._limiter.total_tokens = CONCURRENT_TURNS


class CatchUp:
    """Runs the writer tasks; one for each session whose `has_writer` is set."""

    def __init__(self, hub: Hub, backlog: Backlog, turns: Turns, run_sync: RunSync, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._backlog = backlog
        self._run_sync = run_sync
        self._clock = clock
        self._turns = turns
        self._searching = trio.Semaphore(1)  # of searches one at a time waits for a turn: they take the longest

    async def run(self, session: Session, full: bool) -> None:
        """Serve one session until it is back at the head or gone. ``full``: its socket takes nothing now."""
        try:
            await self._serve(session, Outcome.BLOCKED if full else Outcome.NEEDS_ENTRIES)
        except (OSError, trio.ClosedResourceError):
            self._lost(session)
        except ApplianceError as error:
            # Retention has passed it, or the log cannot be read: better an end than a gap.
            log.warning("subscriber cannot go on", error=str(error), position=session.mark.position)
            await self._end(session, error)
        except Exception:
            log.exception("catching up failed")
            self._lost(session)

    def _lost(self, session: Session) -> None:
        if session.stage is not Stage.GONE:
            self._hub.lost(session)

    async def _serve(self, session: Session, outcome: Outcome) -> None:
        backlog: deque[FrameSet] = deque()
        while outcome is not Outcome.FINISHED:
            if outcome is Outcome.BLOCKED:
                backlog.clear()  # thousands of slow readers must not each keep a part of the log
                await self._wait_for_room(session)
            elif outcome is Outcome.NEEDS_ENTRIES:
                backlog = await self._backlog.after(session.mark.position)
            elif outcome is Outcome.NEEDS_FRAME:
                await backlog[0].prepare(session.variant, self._run_sync)
            elif outcome is Outcome.NEEDS_VERDICT:
                await self._decide(session, backlog[0])
            outcome = await self._take_turn(session, backlog)

    async def _decide(self, session: Session, item: FrameSet) -> None:
        """Find out whether an entry passes a session's filter: a search is work as any other, done in turns."""
        await item.examined.prepare(self._run_sync)
        if session.filter is None or item.examined.verdict(session.filter) is not None:
            return
        decision, done = item.examined.decide(session.filter), False
        while not done and session.stage is not Stage.GONE:
            async with self._searching, self._turns.take():
                done = decision.run(self._clock, self._clock() + TURN_S)

    async def _take_turn(self, session: Session, backlog: deque[FrameSet]) -> Outcome:
        async with self._turns.take():
            if session.stage is Stage.GONE:
                return Outcome.FINISHED
            return turn(self._hub, session, backlog, self._clock, self._clock() + TURN_S)

    async def _wait_for_room(self, session: Session) -> None:
        if session.stage is Stage.GONE:
            return
        await trio.lowlevel.wait_writable(session.wire)
        session.heard()

    async def _end(self, session: Session, error: ApplianceError) -> None:
        if isinstance(error, PrunedError):
            self._hub.lagged(session, trio.current_time())
        else:
            self._hub.close(session, INTERNAL_ERROR, "the log cannot be read", trio.current_time())
        try:
            await self._serve(session, Outcome.OUT_OF_TIME)
        except (OSError, trio.ClosedResourceError):
            self._lost(session)
