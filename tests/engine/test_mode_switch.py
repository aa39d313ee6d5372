"""The switch: it counts at once, is kept, wins over the file, and says who threw it."""

from dataclasses import dataclass, field

import pytest
import structlog
import trio

from appliance.domain.errors import LogError
from appliance.domain.modes import ExecutionMode, ModeChange
from appliance.engine.mode_switch import ModeSwitch

ENABLED, DRY_RUN, DISABLED = ExecutionMode.ENABLED, ExecutionMode.DRY_RUN, ExecutionMode.DISABLED
NOW = 1_700_000_000.25


@dataclass
class FakeStore:
    """Keeps in memory; fails while ``broken`` says why."""

    kept: list[ModeChange] = field(default_factory=list)
    broken: str = ""

    def last_mode_change(self) -> ModeChange | None:
        self._check()
        return self.kept[-1] if self.kept else None

    def add_mode_change(self, change: ModeChange) -> None:
        self._check()
        self.kept.append(change)

    def _check(self) -> None:
        if self.broken:
            raise LogError(self.broken)


def switch(configured: ExecutionMode, store: FakeStore | None) -> tuple[ModeSwitch, list[ExecutionMode]]:
    applied: list[ExecutionMode] = []
    made = ModeSwitch(configured, store, wall_clock=lambda: NOW)
    return made, applied


@pytest.mark.parametrize("mode", list(ExecutionMode))
async def test_never_thrown_the_file_decides(mode: ExecutionMode) -> None:
    made, applied = switch(mode, FakeStore())
    await made.load()
    made.connect(applied.append)
    assert applied == [mode]
    assert made.status.as_object() == {
        "execution_mode": str(mode),
        "source": "file",
        "since": "2023-11-14T22:13:20.250+00:00",
        "who": None,
        "kept": True,
        "problem": None,
    }


async def test_thrown_it_counts_is_kept_and_audited() -> None:
    store = FakeStore()
    made, applied = switch(ENABLED, store)
    made.connect(applied.append)
    with structlog.testing.capture_logs() as lines:
        status = await made.throw(DISABLED, "cli 127.0.0.1 (root)")
    assert applied == [ENABLED, DISABLED]
    assert store.kept == [ModeChange(DISABLED, ENABLED, NOW, "cli 127.0.0.1 (root)")]
    assert (status.mode, status.source, status.since, status.who) == (DISABLED, "switch", NOW, "cli 127.0.0.1 (root)")
    (line,) = lines
    assert line == {
        "event": "execution mode",
        "log_level": "warning",
        "plane": "engine",
        "mode": "disabled",
        "before": "enabled",
        "who": "cli 127.0.0.1 (root)",
        "at": "2023-11-14T22:13:20.250+00:00",
    }


async def test_after_a_restart_the_switch_wins_over_the_file_and_says_so() -> None:
    store = FakeStore([ModeChange(DRY_RUN, ENABLED, 5.0, "debug api 10.0.0.1")])
    made, applied = switch(ENABLED, store)
    with structlog.testing.capture_logs() as lines:
        await made.load()
    made.connect(applied.append)
    assert applied == [DRY_RUN]
    assert (made.status.source, made.status.since, made.status.who) == ("switch", 5.0, "debug api 10.0.0.1")
    assert [line["event"] for line in lines] == ["the switch wins over the file"]


async def test_what_cannot_be_read_leaves_builders_switched_off() -> None:
    made, applied = switch(ENABLED, FakeStore(broken="state.db is damaged"))
    await made.load()
    made.connect(applied.append)
    assert applied == [DISABLED]
    assert (made.status.source, made.status.problem) == ("unreadable", "state.db is damaged")


async def test_a_full_disk_keeps_nobody_from_switching_builders_off() -> None:
    store = FakeStore(broken="the disk is full")
    made, applied = switch(ENABLED, store)
    made.connect(applied.append)
    with structlog.testing.capture_logs() as lines:
        status = await made.throw(DISABLED, "admin api 127.0.0.1")
    assert applied[-1] is DISABLED
    assert (status.mode, status.problem) == (DISABLED, "the disk is full")
    assert status.as_object()["kept"] is False
    assert lines[-1]["event"] == "execution mode not kept: a restart forgets it"
    store.broken = ""
    assert (await made.throw(DISABLED, "admin api 127.0.0.1")).problem is None


async def test_without_a_store_it_is_a_switch_for_one_run() -> None:
    made, applied = switch(DRY_RUN, None)
    await made.load()
    made.connect(applied.append)
    assert (await made.throw(ENABLED, "test")).problem is None
    assert applied == [DRY_RUN, ENABLED]


async def test_a_client_that_hangs_up_does_not_take_its_throw_back() -> None:
    store = FakeStore()
    made, applied = switch(ENABLED, store)
    made.connect(applied.append)
    with trio.CancelScope() as scope:
        scope.cancel()
        await made.throw(DISABLED, "admin api 127.0.0.1")
    assert [change.mode for change in store.kept] == [DISABLED]
    assert made.status.problem is None


async def test_throws_at_once_are_kept_in_their_order() -> None:
    store = FakeStore()
    made, applied = switch(ENABLED, store)
    made.connect(applied.append)
    modes = [DRY_RUN, DISABLED, ENABLED, DISABLED] * 5
    async with trio.open_nursery() as nursery:
        for number, mode in enumerate(modes):
            nursery.start_soon(made.throw, mode, f"test {number}")
    assert [change.mode for change in store.kept] == applied[1:]
    assert made.status.mode is applied[-1]
    assert made.status.problem is None
