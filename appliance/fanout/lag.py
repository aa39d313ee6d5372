"""How far behind the subscribers are: the distribution of their lag, as it was at the last sweep. Pure."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeHistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Entries. Five a second are usual, so 5 is a second and 1000 more than three minutes."""

_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class LagDistribution(Collector):
    """Lags in entries, one for each subscriber: a metric, and quantiles for the status.

    It is a picture of one moment, so its type is a gauge histogram: buckets go down again when subscribers catch up.
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._help = documentation
        self._behind: list[int] = []
        self._subscribers = 0

    def note(self, behind: Sequence[int], subscribers: int) -> None:
        """Take the lags of those who are behind, of so many subscribers; the others stand at the head."""
        self._behind = sorted(behind)
        self._subscribers = max(subscribers, len(self._behind))

    def quantile(self, share: float) -> int:
        """The lag that this share of the subscribers does not exceed; 0 when there is nobody."""
        rank = max(1, math.ceil(share * self._subscribers))
        ahead = self._subscribers - len(self._behind)
        return 0 if rank <= ahead or not self._behind else self._behind[rank - ahead - 1]

    def statistics(self) -> dict[str, int]:
        """Quantiles and the furthest one, in entries."""
        return {name: self.quantile(share) for name, share in _QUANTILES.items()} | {"max": self.quantile(1.0)}

    def collect(self) -> Iterator[Metric]:
        """One gauge histogram."""
        ahead = self._subscribers - len(self._behind)
        buckets = [(str(float(bound)), ahead + bisect_right(self._behind, bound)) for bound in BOUNDS]
        metric = GaugeHistogramMetricFamily(self._name, self._help)
        metric.add_metric([], [*buckets, ("+Inf", self._subscribers)], sum(self._behind))
        yield metric
