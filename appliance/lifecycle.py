"""How a plane lives: started once, restarted or not when it crashes, stopped in turn.

    starting -> running -> stopped          the plane returned after `stopping` was set
                running -> restarting -> running ...      it crashed, and OnCrash.RESTART
                running -> failed           it crashed, and OnCrash.END: the process ends, systemd starts it again

A crash is an exception that the plane did not handle itself, so a bug. What may restart alone is a table in
`supervisor.py`.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, StrEnum
from typing import Final, Protocol

import trio

from appliance.domain.errors import ConfigError
from appliance.net.backoff import Backoff
from appliance.telemetry.logging import get_logger

log = get_logger("supervisor")

STEADY_S: Final = 60.0
"""A plane that ran this long before it crashed is restarted after the shortest pause again."""


class OnCrash(Enum):
    """What the crash of a plane means for the process."""

    END = "end"
    RESTART = "restart"


class PlaneState(StrEnum):
    """Where a plane is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


class RunPlane(Protocol):
    """A plane's `run`: returns after ``stopping`` is set and it has drained; ``started()`` means ready."""

    def __call__(self, *, stopping: trio.Event, task_status: trio.TaskStatus[None]) -> Awaitable[None]: ...


class Plane:
    """One plane under supervision."""

    def __init__(
        self,
        name: str,
        run: RunPlane,
        on_crash: OnCrash,
        *,
        backoff: Backoff | None = None,
        count_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.state = PlaneState.STARTING
        self.restarts = 0
        self.crash: Exception | None = None
        self._run = run
        self._on_crash = on_crash
        self._backoff = backoff or Backoff(initial_s=0.1, maximum_s=5.0)
        self._count_restart = count_restart
        self._stopping = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._running_since = 0.0

    def __repr__(self) -> str:
        return f"<Plane {self.name}: {self.state}, {self.restarts} restarts>"

    async def supervise(
        self,
        on_failure: Callable[["Plane"], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the plane until it is stopped; calls ``on_failure`` when it crashed and must not restart alone.

        A crash before the plane was ready for the first time propagates: that is a start that failed.
        """
        try:
            with self._scope:
                await self._run_once(task_status)
                while await self._may_restart():
                    await self._run_once(trio.TASK_STATUS_IGNORED)
            if self.state is not PlaneState.FAILED:
                self.state = PlaneState.STOPPED
        finally:
            self._ended.set()
        if self.state is PlaneState.FAILED:
            on_failure(self)

    async def stop(self, deadline_s: float) -> None:
        """Ask the plane to stop, and cancel it when it has not within ``deadline_s``."""
        self._stopping.set()
        with trio.move_on_after(deadline_s):
            await self._ended.wait()
            return
        log.warning("plane did not stop in time", plane_name=self.name, deadline_s=deadline_s)
        self._scope.cancel()
        await self._ended.wait()

    def statistics(self) -> dict[str, object]:
        """State and restarts, for the status."""
        return {"state": self.state.value, "restarts": self.restarts}

    def mark_running(self) -> None:
        """The plane is ready."""
        self.state = PlaneState.RUNNING
        self._running_since = trio.current_time()

    async def _run_once(self, task_status: trio.TaskStatus[None]) -> None:
        ready = _Ready(self, task_status)
        try:
            await self._run(stopping=self._stopping, task_status=ready)
        except ConfigError:
            raise
        except Exception as error:
            if not ready.called and self.restarts == 0:
                raise
            self._crashed(error)
        else:
            self.state = PlaneState.STOPPED

    def _crashed(self, error: Exception) -> None:
        log.error("plane crashed", plane_name=self.name, on_crash=self._on_crash.value, exc_info=error)
        self.crash = error
        self.state = PlaneState.FAILED
        if self._on_crash is OnCrash.RESTART:
            self.state = PlaneState.RESTARTING
            self.restarts += 1
            self._count_restart()

    async def _may_restart(self) -> bool:
        """After a crash, wait for the pause to pass; false when there was none, or the plane is being stopped."""
        if self.state is not PlaneState.RESTARTING:
            return False
        if trio.current_time() - self._running_since >= STEADY_S:
            self._backoff.reset()
        with trio.move_on_after(self._backoff.next()):
            await self._stopping.wait()
        return not self._stopping.is_set()


class _Ready:
    """A task status that notes that the plane is running before it passes the word on, once."""

    def __init__(self, plane: Plane, inner: trio.TaskStatus[None]) -> None:
        self.called = False
        self._plane = plane
        self._inner = inner

    def started(self, value: None = None) -> None:
        self.called = True
        self._plane.mark_running()
        self._inner.started(value)
