"""How long commits took, lately: for people, who do not read histograms."""

from collections import deque
from collections.abc import Iterable
from typing import Final

KEPT: Final = 1000
"""Commits that are looked at: more than three minutes of a stream."""


class Latency:
    """The last `KEPT` times, in seconds."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"<Latency of {len(self._times_s)} commits>"

    def add(self, times_s: Iterable[float]) -> None:
        """Take some more."""
        self._times_s.extend(times_s)

    def statistics(self) -> dict[str, float | None]:
        """Median, 99th percentile and greatest, in ms; None where there is nothing yet."""
        ordered = sorted(self._times_s)
        return {name: _ms(ordered, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def _ms(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
