"""`appliance log compare`: in what two hosts' logs differ, as sets of (key, body).

Logs of hosts that replicate hold the same, but for their order, for what is on its way, and for what retention has
removed from one of them. Bodies are compared by their prefixes, so only entries of an earlier version are read whole.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from appliance.domain.payloads import PayloadId
from appliance.flashlog import rows
from appliance.flashlog.connection import translated
from appliance.flashlog.snapshot import database_path, open_snapshot
from appliance.flashlog.verification import PROGRESS_EVERY, Progress, silent

MAX_DIFFERENCES = 100
"""Differences that are listed; more are only counted."""


@dataclass(slots=True)
class Comparison:
    """What both have, and one line for each payload that is not the same."""

    payloads: int = 0
    entries: int = 0
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.difference_count == 0

    def add(self, difference: str) -> None:
        """Note a difference."""
        self.difference_count += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)


@dataclass(frozen=True, slots=True)
class _Side:
    path: Path
    connection: sqlite3.Connection

    def payloads(self) -> Iterator[tuple[PayloadId, int, int]]:
        """(payload id, block number, entries) in log order."""
        for payload_id, number, entries in self.connection.execute(
            "SELECT payload_id, block_number, entries FROM payloads ORDER BY first_position"
        ):
            yield PayloadId(payload_id), number, entries

    def entries(self, payload_id: PayloadId) -> int:
        row = self.connection.execute("SELECT entries FROM payloads WHERE payload_id = ?", (payload_id,)).fetchone()
        return 0 if row is None else int(row[0])

    def prefix(self, payload_id: PayloadId, index: int) -> bytes | None:
        return rows.prefix_at(self.connection, payload_id, index)

    def may_have_removed(self, block_number: int) -> bool:
        """Whether retention has removed something of this block or of a later one."""
        mark = rows.pruned_mark(self.connection)
        return mark is not None and block_number <= mark.highest[0]


def compare(one: Path, other: Path, progress: Progress = silent) -> Comparison:
    """Compare the logs in two paths (folders or files), also while they are written to.

    ``progress`` counts payloads. LogError for what is not a log.
    """
    found = Comparison()
    with ExitStack() as stack:
        mine, theirs = _open(stack, one), _open(stack, other)
        with translated("compare", one):
            _compare_payloads(mine, theirs, found, progress)
            _find_missing(theirs, mine, found)
    return found


def _open(stack: ExitStack, path: Path) -> _Side:
    return _Side(path, stack.enter_context(open_snapshot(database_path(path))))


def _compare_payloads(one: _Side, other: _Side, found: Comparison, progress: Progress) -> None:
    (total,) = one.connection.execute("SELECT count(*) FROM payloads").fetchone()
    for done, (payload_id, number, entries) in enumerate(one.payloads(), start=1):
        theirs = other.entries(payload_id)
        if theirs:
            _compare_payload(one, other, (payload_id, number, entries, theirs), found)
        elif not other.may_have_removed(number):
            found.add(f"payload {payload_id} of block {number}: only in {one.path}, {entries} entries")
        if done % PROGRESS_EVERY == 0:
            progress(done, total)
    progress(total, total)


def _compare_payload(one: _Side, other: _Side, facts: tuple[PayloadId, int, int, int], found: Comparison) -> None:
    payload_id, number, mine, theirs = facts
    common = min(mine, theirs)
    found.payloads += 1
    if one.prefix(payload_id, common - 1) != other.prefix(payload_id, common - 1):
        index = _first_difference(one, other, payload_id, common)
        found.entries += index
        found.add(f"payload {payload_id} of block {number}: other bodies from index {index} on")
        return
    found.entries += common
    if mine != theirs:
        longer = one if mine > theirs else other
        found.add(f"payload {payload_id} of block {number}: from index {common} on only in {longer.path}")


def _first_difference(one: _Side, other: _Side, payload_id: PayloadId, common: int) -> int:
    return next(index for index in range(common) if one.prefix(payload_id, index) != other.prefix(payload_id, index))


def _find_missing(one: _Side, other: _Side, found: Comparison) -> None:
    """Payloads of ``one`` that ``other`` has not."""
    for payload_id, number, entries in one.payloads():
        if not other.entries(payload_id) and not other.may_have_removed(number):
            found.add(f"payload {payload_id} of block {number}: only in {one.path}, {entries} entries")
