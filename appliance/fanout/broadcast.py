"""The tasks that serve all subscribers together: the broadcast, the sweep for pings, the end."""

from collections.abc import Awaitable, Callable, Sequence

import trio

from appliance.fanout.filtered import Filtered
from appliance.fanout.frames import RunSync, Variant
from appliance.fanout.framesets import FrameCache, FrameSet
from appliance.fanout.hub import Hub
from appliance.fanout.marks import Mark
from appliance.fanout.pacing import Clock, Pace
from appliance.fanout.ports import LogView
from appliance.fanout.rounds import Round
from appliance.fanout.session import Session
from appliance.fanout.turns import Turns

# When the broadcast is several entries behind, one send hands over all of them.
BATCH_ENTRIES = 8
BATCH_BYTES = 128 * 1024
# Sends between two looks at the clock: 60 us. Of 200 KB each one takes that long.
AT_A_TIME = 8
AT_A_TIME_BYTES = 128 * 1024


class Broadcast:
    """Hands each new entry of the log to the sessions at the head."""

    def __init__(self, hub: Hub, log: LogView, cache: FrameCache, turns: Turns, run_sync: RunSync) -> None:
        self._hub = hub
        self._log = log
        self._cache = cache
        self._turns = turns
        self._run_sync = run_sync
        self._pace = turns.pace
        self._filtered = Filtered(hub, self._pace, run_sync)
        self._delivered = hub.mark.position
        self._moved = trio.Event()

    async def wait_delivered(self, position: int) -> None:
        """Return when the broadcast of everything up to ``position`` has ended."""
        while self._delivered < position:
            await self._moved.wait()

    async def wait_idle(self) -> None:
        """Return when no broadcast is under way. Not always a checkpoint."""
        await self.wait_delivered(self._hub.mark.position)

    async def run(self) -> None:
        """Run until cancelled. An error of the log propagates: there is nothing to serve without it."""
        clock = self._pace.clock
        empty_through = 0
        while True:
            await self._log.wait_past(max(self._hub.mark.position, empty_through))
            head = self._log.head
            batch = await self._next_batch()
            if not batch:  # all of it lost its place to another host's branch, after it was shown without a majority
                empty_through = head
                continue
            begun = clock()
            await self._deliver(batch)
            self._hub.metrics.broadcast_seconds.observe(clock() - begun)
            self._note_delivered()

    def _note_delivered(self) -> None:
        self._delivered = self._hub.mark.position
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def _next_batch(self) -> Sequence[FrameSet]:
        position = self._hub.mark.position
        limit = 1 if self._hub.has_waiting else BATCH_ENTRIES
        entries = self._log.recent(position, limit)
        if entries is None:  # further behind than the log's memory reaches
            entries = await self._log.read(position, limit=limit, max_bytes=BATCH_BYTES)
        sizes = [len(entry.body) for entry in entries]
        count = next((n for n in range(1, len(sizes)) if sum(sizes[: n + 1]) > BATCH_BYTES), len(sizes))
        return self._cache.get_all(entries[:count])

    async def _deliver(self, batch: Sequence[FrameSet]) -> None:
        before = self._hub.mark
        groups = self._hub.begin(batch)
        # Those whose frame is ready first: compressing for the others takes longer, and happens meanwhile.
        first = [variant for variant in groups if all(item.ready(variant) is not None for item in batch)]
        later = [variant for variant in groups if variant not in first]
        async with trio.open_nursery() as nursery:
            for variant in later:
                nursery.start_soon(self._frame, batch, variant)
            for variant in first + later:
                await self._serve(groups[variant], await self._frame(batch, variant), len(batch), before)
        if self._hub.heads.filtered:
            await self._deliver_filtered(batch, before)

    async def _deliver_filtered(self, batch: Sequence[FrameSet], before: Mark) -> None:
        for (variant, numbers), members in (await self._filtered.plan(batch)).items():
            if numbers:
                part = [batch[number] for number in numbers]
                await self._serve(members, await self._frame(part, variant), len(part), before)
            else:
                await self._filtered.pass_over(members, before)

    async def _frame(self, batch: Sequence[FrameSet], variant: Variant) -> bytes:
        frames = [await item.prepare(variant, self._run_sync) for item in batch]
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def _serve(self, members: list[Session], frame: bytes, entries: int, before: Mark) -> None:
        delivery = Round(
            self._hub,
            members,
            frame,
            entries=entries,
            before=before,
            after=self._hub.mark,
            at_a_time=max(1, min(AT_A_TIME, AT_A_TIME_BYTES // len(frame))),
        )
        pace, done = self._pace, False
        while not done:
            async with self._turns.take_urgent():
                done = delivery.run(pace.clock, pace.until)
                while not (done or self._turns.wanted):
                    await pace.give_way()
                    done = delivery.run(pace.clock, pace.until)


class Sweeper:
    """One task for the pings, pong deadlines, closing deadlines and bounds of lag of all.

    600 pings are 6 ms, and the last ones of a broadcast would wait for them. They can wait themselves: ``wait_idle``
    returns when no broadcast is under way, and half a tick of patience is as much as a sweep has.
    """

    def __init__(self, hub: Hub, tick_s: float, clock: Clock, wait_idle: Callable[[], Awaitable[None]]) -> None:
        self._hub = hub
        self._tick_s = tick_s
        self._pace = Pace(clock)
        self._wait_idle = wait_idle
        self._patient_until = 0.0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await trio.sleep(self._tick_s)
            await self.sweep(trio.current_time())

    async def sweep(self, now: float) -> None:
        """Do what is due, in slices: thousands may lag at once; closing 10,000 takes 30 ms, telling them 100."""
        self._patient_until = trio.current_time() + self._tick_s / 2
        self._hub.note_lags()
        await self._give_way()
        for session in self._hub.half_behind():
            self._hub.warn_lagging(session)
            if self._pace.spent:
                await self._give_way()
        # 10,000 comparisons take half a millisecond.
        for session in self._hub.beyond_bound():
            self._hub.end_if_beyond(session, now)
            if self._pace.spent:
                await self._give_way()
        for session in [session for session in self._hub.sessions if session.next_due_at <= now]:
            self._hub.sweep(session, now)
            if self._pace.spent:
                await self._give_way()

    async def _give_way(self) -> None:
        await self._pace.give_way()
        with trio.move_on_at(self._patient_until):
            await self._wait_idle()
