"""The execution mode's switch: where it stands, who threw it, and how that outlives a restart.

    at the start                          mode          source
    ------------------------------------  ------------  ----------
    the switch was never thrown           the file's    file
    it was thrown                         the switch's  switch
    what is kept of it cannot be read     disabled      unreadable

The last row is the cautious one: builders may have been switched off in an emergency, and the local
execution client makes blocks in any case. A throw counts at once, and is kept after that: a full disk must
not keep anybody from switching builders off, so then the switch is thrown, and it is said that it is not kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import trio

from appliance.domain.errors import LogError
from appliance.domain.modes import ExecutionMode, ModeChange
from appliance.telemetry.logging import get_logger

log = get_logger("engine")

MODE_NUMBERS: Final = {ExecutionMode.ENABLED: 3, ExecutionMode.DRY_RUN: 2, ExecutionMode.DISABLED: 1}
"""The values of the metric `rollup_boost_execution_mode` (rollup-boost 0.7.17)."""


class ModeStore(Protocol):
    """Where throws of the switch are kept; its calls block, so they are made in a thread."""

    def last_mode_change(self) -> ModeChange | None:
        """Where the switch stands; None if it was never thrown. Raises LogError."""

    def add_mode_change(self, change: ModeChange) -> None:
        """Keep one throw; raises LogError."""


@dataclass(frozen=True, slots=True)
class ModeStatus:
    """Where the switch stands. ``since`` in seconds since 1970; ``who`` is None where the file decides.

    ``problem`` says why it would not outlive a restart; None when it would.
    """

    mode: ExecutionMode
    source: str  # "file", "switch" or "unreadable"
    since: float
    who: str | None
    problem: str | None = None

    def as_object(self) -> dict[str, object]:
        """For status and the admin API."""
        return {
            "execution_mode": str(self.mode),
            "source": self.source,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(timespec="milliseconds"),
            "who": self.who,
            "kept": self.problem is None,
            "problem": self.problem,
        }


class ModeSwitch:
    """``configured`` is the file's mode; ``store`` None keeps nothing (a switch for one run)."""

    def __init__(
        self,
        configured: ExecutionMode = ExecutionMode.ENABLED,
        store: ModeStore | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._configured = configured
        self._store = store
        self._wall_clock = wall_clock
        self._status = ModeStatus(configured, "file", wall_clock(), None)
        self._apply: Callable[[ExecutionMode], None] = lambda _mode: None
        self._keeping = trio.Lock()  # throws are kept in the order in which they were made

    @property
    def status(self) -> ModeStatus:
        """Where it stands."""
        return self._status

    async def load(self) -> None:
        """Take up what was kept; before the engine runs."""
        if self._store is None:
            return
        try:
            change = await trio.to_thread.run_sync(self._store.last_mode_change)
        except LogError as error:
            self._status = ModeStatus(ExecutionMode.DISABLED, "unreadable", self._wall_clock(), None, str(error))
            log.error("execution mode not readable: builders stay switched off", reason=str(error))
            return
        if change is not None:
            self._status = ModeStatus(change.mode, "switch", change.at, change.who)
            if change.mode is not self._configured:
                log.warning("the switch wins over the file", **_facts(change), configured=str(self._configured))

    def connect(self, apply: Callable[[ExecutionMode], None]) -> None:
        """``apply`` makes a mode count; it is called at once with the present one, then with every throw."""
        self._apply = apply
        apply(self._status.mode)

    async def throw(self, mode: ExecutionMode, who: str) -> ModeStatus:
        """Make ``mode`` count now, then keep it. ``who`` names the way and the peer; it is the audit's entry."""
        change = ModeChange(mode, self._status.mode, self._wall_clock(), who)
        self._status = ModeStatus(mode, "switch", change.at, who, "not kept yet" if self._store else None)
        self._apply(mode)
        log.warning("execution mode", **_facts(change))
        if self._store is not None:
            with trio.CancelScope(shield=True):  # a client that hangs up does not take its throw back
                await self._keep(self._store, change)
        return self._status

    async def _keep(self, store: ModeStore, change: ModeChange) -> None:
        problem = None
        async with self._keeping:
            try:
                await trio.to_thread.run_sync(store.add_mode_change, change)
            except LogError as error:
                problem = str(error)
                log.error("execution mode not kept: a restart forgets it", reason=problem, **_facts(change))
        if self._status.since == change.at and self._status.who == change.who:
            self._status = ModeStatus(change.mode, "switch", change.at, change.who, problem)


def _facts(change: ModeChange) -> dict[str, object]:
    at = datetime.fromtimestamp(change.at, UTC).isoformat(timespec="milliseconds")
    return {"mode": str(change.mode), "before": str(change.before), "who": change.who, "at": at}
