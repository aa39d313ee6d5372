"""What is known on the loop about the log: how far it reaches, its newest entries, its counts."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from appliance.domain.errors import EquivocationError, OutOfOrderError
from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Record, Replica, Verdict
from appliance.flashlog.commit_point import CommitPoint
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.replica_jobs import BranchChange, Received, Removal
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.spans import Totals
from appliance.flashlog.store import Appended, Removed, StateSet
from appliance.flashlog.tail import Tail

OnState = Callable[[PayloadId, PayloadState, str | None], None]

MAX_PLACES = 4096
"""Entries whose prefixes are remembered: what one peer has brought comes from every other one a moment later."""


class LogState:
    """Follows the writer's outcomes. Only what is on disk ever gets here."""

    def __init__(
        self,
        tail: Tail[Entry],
        records: Tail[Record],
        point: CommitPoint,
        totals: Totals,
        metrics: FlashlogMetrics,
        *,
        commit_on_append: bool,
    ) -> None:
        self.tail = tail
        self.records = records
        self.point = point
        self.totals = totals
        self.committed = point.committed
        self.appended = 0
        self.removed = Removed()
        self.equivocations = 0
        self.out_of_order = 0
        self.refused = 0
        self.replaced = 0
        self.commit_on_append = commit_on_append
        self._metrics = metrics
        self._state_watchers: list[OnState] = []
        self._places: dict[tuple[PayloadId, int], tuple[bytes, int]] = {}
        self.show()

    @contextlib.contextmanager
    def watch_states(self, on_state: OnState) -> Iterator[None]:
        """Call ``on_state`` for every change of a payload's state that is on disk, while the block runs."""
        self._state_watchers.append(on_state)
        try:
            yield
        finally:
            self._state_watchers.remove(on_state)

    def note_outcomes(self, outcomes: Sequence[object]) -> None:
        """Take what one transaction did: entries first, then the position that makes them visible."""
        for outcome in outcomes:
            if isinstance(outcome, Appended) and outcome.new:
                self._note_record(outcome.record)
            elif isinstance(outcome, Received):
                self._note_received(outcome)
            elif isinstance(outcome, BranchChange):
                self._note_removal(outcome.removal)
                self._note_received(outcome.received)
            elif isinstance(outcome, StateSet):
                self._note_state(outcome)
            elif isinstance(outcome, EquivocationError):
                self.equivocations += 1
                self._metrics.equivocations.inc()
            elif isinstance(outcome, OutOfOrderError):
                self.out_of_order += 1
                self._metrics.out_of_order.inc()
        if self.commit_on_append:
            self.commit_through(self.point.appended)
        self.show()

    def held(self, replica: Replica) -> int | None:
        """The position of the same entry on the same branch, where memory has it; None says nothing."""
        known = self._places.get((replica.payload_id, replica.index))
        return known[1] if known and known[0] == replica.prefix else None

    def _note_place(self, record: Record) -> None:
        self._places[record.payload_id, record.index] = record.prefix, record.position
        while len(self._places) > MAX_PLACES:
            del self._places[next(iter(self._places))]

    def _note_record(self, record: Record) -> None:
        self.tail.extend([record.entry])
        self.records.extend([record])
        if not self.commit_on_append:
            self._note_place(record)
        self.point.append_through(record.position)
        self.appended += 1
        self.totals = replace(
            self.totals,
            payloads=self.totals.payloads + (record.index == 0),
            entries=self.totals.entries + 1,
            bytes=self.totals.bytes + len(record.body) + ENTRY_OVERHEAD_BYTES,
        )
        self._metrics.appended.inc()
        self._metrics.appended_bytes.inc(len(record.body))

    def _note_received(self, received: Received) -> None:
        for appended in received.appended:
            self._note_record(appended.record)
        refused = sum(receipt.verdict is Verdict.REFUSED for receipt in received.receipts)
        self.refused += refused
        self._metrics.equivocations.inc(refused)

    def _note_removal(self, removal: Removal) -> None:
        """A branch that lost: none of it was shown, but where the operators chose to show without a majority."""
        gone = set(removal.positions)
        self._places = {key: place for key, place in self._places.items() if place[1] not in gone}
        self.tail.discard(removal.positions)
        self.records.discard(removal.positions)
        self.replaced += removal.removed.entries
        self.totals = replace(
            self.totals,
            payloads=self.totals.payloads - removal.removed.payloads,
            entries=self.totals.entries - removal.removed.entries,
            bytes=self.totals.bytes - removal.removed.bytes,
        )

    def _note_state(self, state: StateSet) -> None:
        if state.changed:
            for on_state in list(self._state_watchers):
                on_state(state.payload_id, state.state, state.block_hash)

    def note_removed(self, removed: Removed, left: Totals) -> None:
        """Take what retention removed; ``left`` is counted anew, so that the counts cannot drift."""
        self.removed += removed
        self.totals = left
        self._metrics.removed.inc(removed.entries)
        self.show()

    def commit_through(self, position: int) -> None:
        """Everything up to ``position`` is committed, as far as it is on disk."""
        self.committed = max(self.committed, min(position, self.point.appended))
        self.point.commit_through(position)
        self.show()

    def show(self) -> None:
        """Tell the metrics how far the log reaches."""
        self._metrics.head.set(self.point.committed)
        self._metrics.held_bytes.set(self.totals.bytes)
