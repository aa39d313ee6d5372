"""What a simulated client was asked: for assertions and for the screen."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

CALLS_KEPT: Final = 1000  # older ones are forgotten, the counts go on


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `at` is trio's clock in seconds."""

    at: float
    method: str
    params: Sequence[Any]


class CallRecord:
    """The last calls, and how many of each method there ever were."""

    def __init__(self, limit: int = CALLS_KEPT) -> None:
        self.calls: deque[Call] = deque(maxlen=limit)
        self.counts: Counter[str] = Counter()

    def add(self, call: Call) -> None:
        """Remember one."""
        self.calls.append(call)
        self.counts[call.method] += 1

    def __len__(self) -> int:
        return len(self.calls)

    def of(self, prefix: str) -> list[Call]:
        """The calls whose method begins with `prefix`: "engine_getPayload" finds every version."""
        return [call for call in self.calls if call.method.startswith(prefix)]
