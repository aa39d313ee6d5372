"""What is known on the loop about the log: how far it reaches, its newest entries, its counts."""

from collections.abc import Sequence
from dataclasses import replace

from appliance.domain.errors import EquivocationError, OutOfOrderError
from appliance.flashlog.commit_point import CommitPoint
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.spans import Totals
from appliance.flashlog.store import Appended, Removed
from appliance.flashlog.tail import Tail


class LogState:
    """Follows the writer's outcomes. Only what is on disk ever gets here."""

    def __init__(
        self, tail: Tail, point: CommitPoint, totals: Totals, metrics: FlashlogMetrics, *, commit_on_append: bool
    ) -> None:
        self.tail = tail
        self.point = point
        self.totals = totals
        self.appended = 0
        self.removed = Removed()
        self.equivocations = 0
        self.out_of_order = 0
        self._metrics = metrics
        self._commit_on_append = commit_on_append
        self._show()

    def note_outcomes(self, outcomes: Sequence[object]) -> None:
        """Take what one transaction did: entries first, then the position that makes them visible."""
        for outcome in outcomes:
            if isinstance(outcome, Appended) and outcome.new:
                self._note_entry(outcome)
            elif isinstance(outcome, EquivocationError):
                self.equivocations += 1
                self._metrics.equivocations.inc()
            elif isinstance(outcome, OutOfOrderError):
                self.out_of_order += 1
                self._metrics.out_of_order.inc()
        if self._commit_on_append:
            self.point.commit_through(self.point.appended)
        self._show()

    def _note_entry(self, appended: Appended) -> None:
        entry = appended.entry
        self.tail.extend([entry])
        self.point.append_through(entry.position)
        self.appended += 1
        self.totals = replace(
            self.totals,
            payloads=self.totals.payloads + (entry.index == 0),
            entries=self.totals.entries + 1,
            bytes=self.totals.bytes + len(entry.body) + ENTRY_OVERHEAD_BYTES,
        )
        self._metrics.appended.inc()
        self._metrics.appended_bytes.inc(len(entry.body))

    def note_removed(self, removed: Removed, left: Totals) -> None:
        """Take what retention removed; ``left`` is counted anew, so that the counts cannot drift."""
        self.removed += removed
        self.totals = left
        self._metrics.removed.inc(removed.entries)
        self._show()

    def _show(self) -> None:
        self._metrics.head.set(self.point.committed)
        self._metrics.held_bytes.set(self.totals.bytes)
