"""The log against a dict and a list: any sequence of what its neighbours, operators and the disk may do."""

import itertools
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import outcome
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError
from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.payloads import PayloadState
from appliance.flashlog import FlashLog, RetentionLimits, TailLimits, open_flashlog, run_inline
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.reader import Reader
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from tests.flashlog.support import Model, assert_contiguous, flashblock, payload_id

T = TypeVar("T")
MAX = 2**40
KEEP_BYTES = 6000

payloads = st.integers(0, 4)


class Loop:
    """A trio run that does one call at a time for synchronous code, as a guest of this thread."""

    def __init__(self, folder: Path, *, commit_on_append: bool = True) -> None:
        self._commit_on_append = commit_on_append
        self._ticks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._calls, self._inbox = trio.open_memory_channel[Callable[[FlashLog], Awaitable[None]]](1)
        self._ended: outcome.Outcome[None] | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            folder,
            run_sync_soon_threadsafe=self._ticks.put,
            done_callback=self._end,
        )

    def _end(self, ended: outcome.Outcome[None]) -> None:
        self._ended = ended

    async def _main(self, folder: Path) -> None:
        limits = RetentionLimits(max_age_s=None, max_bytes=KEEP_BYTES, slack_bytes=0)
        async with open_flashlog(
            folder,
            retention=limits,
            retention_interval_s=1e9,
            tail_limits=TailLimits(max_entries=5),
            run_sync=run_inline,
            commit_on_append=self._commit_on_append,
        ) as log:
            async for call in self._inbox:
                await call(log)

    def call(self, function: Callable[[FlashLog], Awaitable[T]]) -> T:
        """Do ``function`` in the run and return what it returns, or raise what it raises."""
        results: list[outcome.Outcome[T]] = []

        async def run(log: FlashLog) -> None:
            results.append(await outcome.acapture(function, log))

        self._calls.send_nowait(run)
        while not results and self._ended is None:
            self._ticks.get()()
        return results[0].unwrap()

    def stop(self) -> None:
        self._calls.close()
        while self._ended is None:
            self._ticks.get()()
        self._ended.unwrap()


class LogMachine(RuleBasedStateMachine):
    """What the log says and does is what the model says and does."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.removed_through = 0
        self.loop = Loop(Path(self.folder.name))

    def teardown(self) -> None:
        self.loop.stop()
        self.folder.cleanup()

    def next_of(self, payload: int) -> int:
        return next(i for i in itertools.count() if (payload_id(payload), i) not in self.model.by_key)

    @rule(payload=payloads, index=st.integers(-1, 6), text=st.sampled_from(["", "other"]))
    def append(self, payload: int, index: int, text: str) -> None:
        self.append_like_the_model(flashblock(payload, index, text=text))

    @rule(payload=payloads, count=st.integers(1, 4))
    def append_what_follows(self, payload: int, count: int) -> None:
        for _ in range(count):
            self.append_like_the_model(flashblock(payload, self.next_of(payload)))

    def append_like_the_model(self, item: Flashblock) -> None:
        expected = attempt(lambda: self.model.append(item))
        found = attempt(lambda: self.loop.call(lambda log: log.append(item, "a")))
        assert found == expected

    @rule(several=st.lists(payloads, min_size=2, unique=True))
    def append_at_the_same_time(self, several: list[int]) -> None:
        items = [flashblock(payload, self.next_of(payload)) for payload in several]
        entries: list[Entry] = []

        async def run(log: FlashLog) -> None:
            async def one(item: Flashblock) -> None:
                entries.append(await log.append(item, "a"))

            async with trio.open_nursery() as nursery:
                for item in items:
                    nursery.start_soon(one, item)

        self.loop.call(run)
        by_key = {(item.payload_id, item.index): item for item in items}
        for entry in sorted(entries, key=lambda entry: entry.position):
            assert self.model.append(by_key[entry.payload_id, entry.index]) == entry

    @rule(payload=payloads, steps=st.integers(0, 4))
    def append_and_give_up(self, payload: int, steps: int) -> None:
        item = flashblock(payload, self.next_of(payload))

        async def run(log: FlashLog) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.append, item, "a")
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        self.loop.call(run)
        self.append_like_the_model(item)

    @rule(payload=payloads, state=st.sampled_from([PayloadState.SEALED, PayloadState.LANDED]))
    def set_state(self, payload: int, state: PayloadState) -> None:
        known = (payload_id(payload), 0) in self.model.by_key
        found = attempt(lambda: self.loop.call(lambda log: log.set_state(payload_id(payload), state)))
        if not known:
            assert found is LogError

    @rule(payload=payloads)
    def append_to_a_full_disk(self, payload: int) -> None:
        item = flashblock(payload, self.next_of(payload), size=60_000)

        async def run(log: FlashLog) -> None:
            connection = log._files.store.connection
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            try:
                if free < 10:
                    await log.append(item, "a")
            finally:
                connection.execute("PRAGMA max_page_count = 1000000")

        assert attempt(lambda: self.loop.call(run)) in (LogError, None)

    @rule()
    def apply_retention(self) -> None:
        self.loop.call(lambda log: log.apply_retention())
        with closing(Reader(Path(self.folder.name) / DATABASE_NAME)) as reader:
            mark = reader.mark()
        self.removed_through = mark.position if mark else 0
        gone = [entry for entry in self.model.entries if entry.position <= self.removed_through]
        self.model.remove_through(self.removed_through)
        left = self.model.entries
        assert not {entry.payload_id for entry in gone} & {entry.payload_id for entry in left}
        self.check_that_what_is_left_is_little(left)

    def check_that_what_is_left_is_little(self, left: list[Entry]) -> None:
        """Over the limit only by payloads that cannot go yet: woven into one that is not due, or current."""
        sizes = [len(entry.body) + ENTRY_OVERHEAD_BYTES for entry in left]
        for count in range(1, len(left)):
            first, rest = left[:count], left[count:]
            if {entry.payload_id for entry in first} & {entry.payload_id for entry in rest}:
                continue
            last = [entry.payload_id for entry in first if entry.index == 0][-1]
            others = [size for entry, size in zip(first, sizes, strict=False) if entry.payload_id != last]
            assert sum(sizes) - sum(others) <= KEEP_BYTES
            return

    @rule()
    def restart(self) -> None:
        self.loop.stop()
        self.loop = Loop(Path(self.folder.name))

    @invariant()
    def the_log_holds_what_the_model_holds(self) -> None:
        async def look(log: FlashLog) -> tuple[int, list[Entry]]:
            return log.head, await log.read(self.removed_through, limit=MAX, max_bytes=MAX)

        head, found = self.loop.call(look)
        assert found == self.model.entries
        assert head == self.model.last_position
        assert_contiguous(found)

    @invariant()
    def memory_says_the_same_as_the_disk_or_nothing(self) -> None:
        async def look(log: FlashLog) -> list[tuple[int, list[Entry] | None]]:
            return [(after, log.recent(after, MAX)) for after in range(self.removed_through, log.head + 1)]

        for after, recent in self.loop.call(look):
            if recent is not None:
                assert recent == [entry for entry in self.model.entries if entry.position > after]


def attempt(function: Callable[[], Any]) -> object:
    """What it returns, or the type of the LogError that it raises."""
    try:
        return function()
    except LogError as error:
        return next(kind for kind in (EquivocationError, OutOfOrderError, LogError) if isinstance(error, kind))


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=40, stateful_step_count=25)
