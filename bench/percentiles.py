"""What a list of samples says."""

import math
from collections.abc import Sequence
from typing import Self

import msgspec


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that ``share`` (0..1) of all do not exceed; 0.0 of nothing."""
    if not ordered:
        return 0.0
    rank = max(1, math.ceil(share * len(ordered)))
    return ordered[rank - 1]


class Summary(msgspec.Struct, frozen=True):
    """Samples in the unit that they came in."""

    count: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        ordered = sorted(samples)
        return cls(len(ordered), percentile(ordered, 0.5), percentile(ordered, 0.99), percentile(ordered, 1.0))

    def scaled(self, factor: float) -> "Summary":
        """The same in another unit."""
        return Summary(self.count, self.p50 * factor, self.p99 * factor, self.max * factor)


def median(samples: Sequence[float]) -> float:
    return percentile(sorted(samples), 0.5)
