"""Which payloads retention removes: whole ones, oldest first, never the current one.

What remains must stay a log: everything up to one position goes, and no payload may lie on both sides of
it. So a payload that is interleaved with a younger one stays until both are due.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.flashlog.spans import Span

ENTRY_OVERHEAD_BYTES = 256
"""Counted for each entry beside its body: row, key, share of indices and of unfilled pages."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """How much is kept; whichever bound is reached first. None is no bound.

    ``max_age_s`` counts from the last append to a payload, by the wall clock. ``max_bytes`` bounds bodies
    with their overhead; the file is larger by ``slack_bytes`` of free pages at most, and by the WAL.
    ``wait_age_s`` and ``wait_bytes`` are added for entries that a peer has not fetched, or that are not committed.
    """

    max_age_s: float | None = 24 * 3600.0
    max_bytes: int | None = 4096 * 2**20
    slack_bytes: int = 16 * 2**20
    wait_age_s: float = 0.0
    wait_bytes: int = 0


def cut(
    spans: Sequence[Span], total_bytes: int, now: float, limits: RetentionLimits, awaited: int | None = None
) -> int | None:
    """Return the position through which to remove, or None when nothing is due.

    ``spans`` are the oldest payloads by first position. The last one of them is never removed: it is the
    current payload, or the log continues after it. What is after position ``awaited`` is wanted by somebody, and kept
    beyond the limits by ``wait_age_s`` and ``wait_bytes``; None is "nobody waits".
    """
    found = None
    reached = 0
    for span, successor in itertools.pairwise(spans):
        waits = awaited is not None and span.last_position > awaited
        if not _is_due(span, total_bytes, now, limits, waits=waits):
            break
        total_bytes -= span.bytes
        reached = max(reached, span.last_position)
        if reached < successor.first_position:
            found = reached
    return found


def _is_due(span: Span, total_bytes: int, now: float, limits: RetentionLimits, *, waits: bool) -> bool:
    age_s, size = (limits.wait_age_s, limits.wait_bytes) if waits else (0.0, 0)
    too_old = limits.max_age_s is not None and span.appended_at < now - limits.max_age_s - age_s
    too_much = limits.max_bytes is not None and total_bytes > limits.max_bytes + size
    return too_old or too_much
