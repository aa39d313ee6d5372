"""Counts that are made on every request: prometheus-client's own take a lock and four calls each time.

Only ever counted from the event loop's thread; scraped from it too.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class LightCounter(Collector):
    """A counter with one label: ``counts[i]`` belongs to ``values[i]``; count by `counts[i] += 1`."""

    def __init__(self, name: str, documentation: str, label: str, values: Sequence[str]) -> None:
        self.counts = [0] * len(values)
        self._name = name
        self._help = documentation
        self._label = label
        self._values = tuple(values)

    def collect(self) -> Iterator[Metric]:
        """All values, also those that never came."""
        family = CounterMetricFamily(self._name, self._help, labels=[self._label])
        for value, count in zip(self._values, self.counts, strict=True):
            family.add_metric([value], count)
        yield family


class LightHistogram(Collector):
    """A histogram of seconds with one label."""

    def __init__(
        self, name: str, documentation: str, label: str, values: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._name = name
        self._help = documentation
        self._label = label
        self._values = tuple(values)
        self._bounds = tuple(buckets)
        self._counts = [[0] * (len(self._bounds) + 1) for _ in values]
        self._sums = [0.0] * len(values)

    def observe(self, which: int, seconds: float) -> None:
        """Count ``seconds`` under the label's value number ``which``."""
        self._counts[which][bisect_left(self._bounds, seconds)] += 1
        self._sums[which] += seconds

    def collect(self) -> Iterator[Metric]:
        """Cumulative buckets, as Prometheus wants them."""
        family = HistogramMetricFamily(self._name, self._help, labels=[self._label])
        names = [*map(str, self._bounds), "+Inf"]
        for value, counts, total in zip(self._values, self._counts, self._sums, strict=True):
            cumulative = [sum(counts[: index + 1]) for index in range(len(counts))]
            family.add_metric([value], list(zip(names, map(float, cumulative), strict=True)), total)
        yield family
