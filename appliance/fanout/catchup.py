"""Serving sessions that are not at the head: finish what is half sent, then send from the log.

After an outage thousands catch up at once, and nearly all of them find what they need in memory and room in their
socket. One task, `CatchUp.run`, serves them one after the other, many in a turn (turns.py). Whoever has to wait,
for its socket, for the disk or for a frame to be compressed, gets a writer task of its own.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial
from itertools import islice
from typing import Final

import trio

from appliance.domain.errors import ApplianceError, PrunedError
from appliance.fanout.backlog import Backlog
from appliance.fanout.frames import RunSync
from appliance.fanout.framesets import FrameSet
from appliance.fanout.hub import INTERNAL_ERROR, Hub
from appliance.fanout.session import Session, Stage
from appliance.fanout.turns import Turns
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

# One send hands over so many frames and bytes: a send of 128 KB takes a tenth of a millisecond.
BATCH_ENTRIES: Final = 16
BATCH_BYTES: Final = 128 * 1024


class Outcome(Enum):
    """Why a turn ended."""

    FINISHED = auto()  # back at the head, or closed: the task ends
    BLOCKED = auto()  # the socket is full
    NEEDS_ENTRIES = auto()
    NEEDS_FRAME = auto()
    NEEDS_VERDICT = auto()  # it takes a search whether the next entry passes the filter
    OUT_OF_TIME = auto()


def turn(hub: Hub, session: Session, backlog: deque[FrameSet], clock: Callable[[], float], until: float) -> Outcome:
    """Send what can be sent now, at least one step, however late. What has been sent is taken from ``backlog``. Pure.

    Never goes beyond the hub's mark: what comes after it will be broadcast, and either the session is
    back at the head by then, or it is served from the log.
    """
    while session.flush():
        if session.stage is not Stage.CATCHING_UP or hub.rejoin(session):
            hub.end_if_closed(session)
            return Outcome.FINISHED
        if not backlog:
            return Outcome.NEEDS_ENTRIES
        outcome = _serve_next(hub, session, backlog)
        if outcome is not None:
            return outcome
        if clock() >= until:
            return Outcome.OUT_OF_TIME
    return Outcome.BLOCKED


def _serve_next(hub: Hub, session: Session, backlog: deque[FrameSet]) -> Outcome | None:
    wanted = _wants(session, backlog[0])
    if wanted is None:
        return Outcome.NEEDS_VERDICT
    if wanted:
        return _send_next(hub, session, backlog)
    session.mark = backlog.popleft().mark
    return None


def _wants(session: Session, item: FrameSet) -> bool | None:
    """Whether an entry is for this session; None when it takes a search to know."""
    if session.skips(item.entry.key):
        return False
    return True if session.filter is None else item.examined.verdict(session.filter)


def _send_next(hub: Hub, session: Session, backlog: deque[FrameSet]) -> Outcome | None:
    frames = _collect(hub, session, backlog)
    if not frames:
        return Outcome.NEEDS_FRAME
    taken = session.offer(frames, [item.mark for item in islice(backlog, len(frames))])
    hub.metrics.sent_messages.add(taken)
    hub.metrics.bytes_broadcasted.add(sum(map(len, frames[:taken])))
    for _ in range(taken):
        backlog.popleft()
    return None if taken == len(frames) and session.at_boundary else Outcome.BLOCKED


def _collect(hub: Hub, session: Session, backlog: deque[FrameSet]) -> list[bytes]:
    """The frames that go out in one send: the next entries up to the first that is not ready, or not for it."""
    frames: list[bytes] = []
    size = 0
    for item in islice(backlog, BATCH_ENTRIES):
        if frames and (item.mark.position > hub.mark.position or not _wants(session, item)):
            break
        frame = item.ready(session.variant)
        if frame is None or (frames and size + len(frame) > BATCH_BYTES):
            break
        frames.append(frame)
        size += len(frame)
    return frames


class CatchUp:
    """Serves the sessions whose `has_writer` is set.

    ``spawn`` starts a task; at most one for each session, and no more are queued here than there are sessions.
    """

    def __init__(
        self,
        hub: Hub,
        backlog: Backlog,
        turns: Turns,
        run_sync: RunSync,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._hub = hub
        self._backlog = backlog
        self._run_sync = run_sync
        self._turns = turns
        self._spawn = spawn
        self._queue: deque[Session] = deque()
        self._queued = trio.Event()
        self._searching = trio.Semaphore(1)  # of searches one at a time waits for a turn: they take the longest

    @property
    def queued(self) -> int:
        """How many wait for their first turn."""
        return len(self._queue)

    def add(self, session: Session, full: bool) -> None:
        """A session needs a writer. ``full``: its socket takes nothing now."""
        if full:
            self._wait_apart(session, Outcome.BLOCKED, deque())
        else:
            self._queue.append(session)
            self._queued.set()

    def _wait_apart(self, session: Session, outcome: Outcome, backlog: deque[FrameSet]) -> None:
        self._spawn(partial(self._run_apart, session, outcome, backlog))

    async def run(self) -> None:
        """Serve those who need not wait. Run until cancelled."""
        while True:
            await self._queued.wait()
            async with self._turns.take():
                while self._queue and not self._turns.pace.spent:
                    self._serve_first()
            if not self._queue:
                self._queued = trio.Event()

    def _serve_first(self) -> None:
        session = self._queue.popleft()
        try:
            outcome, backlog = self._serve_now(session)
        except OSError:
            self._lost(session)
            return
        except Exception:
            log.exception("catching up failed")
            self._lost(session)
            return
        if outcome is Outcome.OUT_OF_TIME:
            self._queue.append(session)
        elif outcome is not Outcome.FINISHED:
            self._wait_apart(session, outcome, backlog)

    def _serve_now(self, session: Session) -> tuple[Outcome, deque[FrameSet]]:
        """As far as it goes with what is in memory."""
        pace, backlog = self._turns.pace, deque[FrameSet]()
        while session.stage is not Stage.GONE:
            outcome = turn(self._hub, session, backlog, pace.clock, pace.until)
            if outcome is not Outcome.NEEDS_ENTRIES:
                return outcome, backlog
            found = self._backlog.in_memory(session.mark.position)
            if not found:
                return outcome, backlog
            backlog = found
        return Outcome.FINISHED, backlog

    async def _run_apart(self, session: Session, outcome: Outcome, backlog: deque[FrameSet]) -> None:
        """Serve one session until it is back at the head or gone."""
        try:
            await self._serve(session, outcome, backlog)
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

    async def _serve(self, session: Session, outcome: Outcome, backlog: deque[FrameSet]) -> None:
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
                done = decision.run(self._turns.pace.clock, self._turns.pace.until)

    async def _take_turn(self, session: Session, backlog: deque[FrameSet]) -> Outcome:
        async with self._turns.take():
            if session.stage is Stage.GONE:
                return Outcome.FINISHED
            return turn(self._hub, session, backlog, self._turns.pace.clock, self._turns.pace.until)

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
            await self._serve(session, Outcome.OUT_OF_TIME, deque())
        except (OSError, trio.ClosedResourceError):
            self._lost(session)
