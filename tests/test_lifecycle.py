from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.domain.errors import ConfigError
from appliance.lifecycle import OnCrash, Plane, PlaneState

RunPlane = Callable[..., Awaitable[None]]


class Script:
    """A plane that crashes at each of the given ages (seconds) and otherwise runs until it is stopped."""

    def __init__(self, *crash_after_s: float) -> None:
        self.crash_after_s = list(crash_after_s)
        self.starts: list[float] = []
        self.drain_s = 0.0

    async def run(self, *, stopping: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        self.starts.append(trio.current_time())
        task_status.started()
        with trio.move_on_after(self.crash_after_s.pop(0) if self.crash_after_s else float("inf")):
            await stopping.wait()
            await trio.sleep(self.drain_s)
            return
        raise RuntimeError("a bug")


def state(plane: Plane) -> PlaneState:
    """Read through a function, so that the type checker does not take the last comparison for a fact."""
    return plane.state


def never(plane: Plane) -> None:
    raise AssertionError(f"{plane!r} failed")


async def test_a_plane_runs_until_it_is_stopped(nursery: trio.Nursery) -> None:
    plane = Plane("lb", Script().run, OnCrash.END)
    assert state(plane) is PlaneState.STARTING
    await nursery.start(plane.supervise, never)
    assert state(plane) is PlaneState.RUNNING
    await plane.stop(1)
    assert state(plane) is PlaneState.STOPPED
    assert repr(plane) == "<Plane lb: stopped, 0 restarts>"


async def test_a_plane_that_drains_in_time_is_not_cancelled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    script = Script()
    script.drain_s = 0.9
    plane = Plane("engine", script.run, OnCrash.END)
    await nursery.start(plane.supervise, never)
    await plane.stop(1)
    assert trio.current_time() == pytest.approx(0.9)


async def test_a_plane_that_drains_too_long_is_cancelled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    script = Script()
    script.drain_s = 60
    plane = Plane("fanout", script.run, OnCrash.RESTART)
    await nursery.start(plane.supervise, never)
    await plane.stop(2)
    assert trio.current_time() == pytest.approx(2)
    assert state(plane) is PlaneState.STOPPED


async def test_a_plane_that_may_restart_does_with_growing_pauses(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    counted: list[None] = []
    script = Script(1, 1, 1)
    plane = Plane("fanout", script.run, OnCrash.RESTART, count_restart=lambda: counted.append(None))
    await nursery.start(plane.supervise, never)
    await trio.sleep(10)
    assert state(plane) is PlaneState.RUNNING
    assert plane.statistics() == {"state": "running", "restarts": 3}
    assert len(counted) == 3
    assert script.starts == pytest.approx([0, 1.1, 2.3, 3.7])
    await plane.stop(1)


async def test_a_plane_that_must_not_restart_reports_its_crash(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    failed: list[Plane] = []
    plane = Plane("engine", Script(1).run, OnCrash.END)
    await nursery.start(plane.supervise, failed.append)
    await trio.sleep(2)
    assert failed == [plane]
    assert state(plane) is PlaneState.FAILED
    assert str(plane.crash) == "a bug"


async def test_a_plane_that_ran_long_is_restarted_after_the_shortest_pause_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    script = Script(1, 1, 100, 1)
    plane = Plane("fanout", script.run, OnCrash.RESTART)
    await nursery.start(plane.supervise, never)
    await trio.sleep(200)
    assert script.starts == pytest.approx([0, 1.1, 2.3, 102.4, 103.6])
    await plane.stop(1)


async def test_stopping_ends_the_pause_before_a_restart(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    script = Script(*[0.0] * 20)
    plane = Plane("fanout", script.run, OnCrash.RESTART)
    await nursery.start(plane.supervise, never)
    await trio.sleep(3)
    assert state(plane) is PlaneState.RESTARTING
    starts = len(script.starts)
    await plane.stop(60)
    assert trio.current_time() == pytest.approx(3)
    assert len(script.starts) == starts
    assert state(plane) is PlaneState.STOPPED


@pytest.mark.parametrize("error", [ConfigError("port 1 is in use"), RuntimeError("a bug")])
@pytest.mark.parametrize("on_crash", list(OnCrash))
async def test_a_start_that_fails_propagates(error: Exception, on_crash: OnCrash) -> None:
    async def run(**_: Any) -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(Plane("admin", run, on_crash).supervise, never)
    assert caught.value.exceptions == (error,)
