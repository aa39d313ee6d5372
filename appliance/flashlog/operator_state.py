"""state.db, beside the log: what operators decided while the process ran, so that it outlives a restart.

Rare and small, so each call opens the file, does its work in one transaction with `synchronous=FULL` and
closes it: nothing has to be shut down, and a disk that was full or a folder that was missing counts only
while it is. Synchronous: callers with an event loop use a thread.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.domain.lb_nodes import AddedNode
from appliance.domain.modes import ExecutionMode, ModeChange
from appliance.flashlog.connection import connect, transaction, translated
from appliance.flashlog.schema import STATE, identify, migrate

STATE_NAME: Final = "state.db"

MAX_CHANGES: Final = 1000
"""Throws of the switch that are kept for whoever looks later; the oldest go first."""


class OperatorState:
    """The file in ``folder``; it is made with the first decision."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE_NAME

    def __repr__(self) -> str:
        return f"<OperatorState {self.path}>"

    def last_mode_change(self) -> ModeChange | None:
        """Where the switch stands; None if it was never thrown. LogError for a file that cannot be read."""
        with translated("read", self.path):
            if not self.path.exists():
                return None
        changes = self.mode_changes(limit=1)
        return changes[0] if changes else None

    def mode_changes(self, limit: int) -> list[ModeChange]:
        """The newest throws of the switch, newest first; LogError for a file that cannot be read."""
        with self._opened("read") as connection:
            rows = connection.execute(
                "SELECT mode, before, at, who FROM mode_changes ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [ModeChange(ExecutionMode(mode), ExecutionMode(before), at, who) for mode, before, at, who in rows]

    def add_mode_change(self, change: ModeChange) -> None:
        """Keep one throw of the switch; it is on disk when this returns. LogError when the disk refuses."""
        with self._written() as connection:
            connection.execute(
                "INSERT INTO mode_changes (mode, before, at, who) VALUES (?, ?, ?, ?)",
                (change.mode.value, change.before.value, change.at, change.who),
            )
            connection.execute(
                "DELETE FROM mode_changes WHERE id <= (SELECT max(id) FROM mode_changes) - ?", (MAX_CHANGES,)
            )

    def lb_nodes(self) -> list[AddedNode]:
        """The load balancer's added nodes, the oldest first; LogError for a file that cannot be read."""
        with translated("read", self.path):
            if not self.path.exists():
                return []
        with self._opened("read") as connection:
            rows = connection.execute("SELECT url, workers, at, who FROM lb_nodes ORDER BY at, url").fetchall()
        return [AddedNode(*row) for row in rows]

    def keep_lb_node(self, node: AddedNode) -> None:
        """Keep an added node, in the place of an older one with its URL. LogError when the disk refuses."""
        with self._written() as connection:
            connection.execute(
                "INSERT INTO lb_nodes (url, workers, at, who) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (url) DO UPDATE SET workers = excluded.workers, at = excluded.at, who = excluded.who",
                (node.url, node.workers, node.at, node.who),
            )

    def forget_lb_node(self, url: str) -> None:
        """Keep an added node no longer. LogError when the disk refuses."""
        with self._written() as connection:
            connection.execute("DELETE FROM lb_nodes WHERE url = ?", (url,))

    @contextlib.contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        """One transaction; on disk afterwards."""
        with translated("create", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened("write") as connection, transaction(connection):
            yield connection

    @contextlib.contextmanager
    def _opened(self, doing: str) -> Iterator[sqlite3.Connection]:
        with translated(doing, self.path), contextlib.closing(connect(self.path)) as connection:
            identify(connection, self.path, STATE)
            # No WAL: its two side files would have to be copied along, and nobody reads meanwhile.
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, self.path, schema=STATE)
            yield connection
