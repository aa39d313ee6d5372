"""How often requests were refused, told now and then: in an overload each one would be a line of its own. Pure."""

from typing import Final

INTERVAL_S: Final = 10.0
"""Between two lines of one reason."""


class Refusals:
    """The first of a reason is told at once, and then how many there were. Bounded: reasons are a few fixed texts."""

    def __init__(self) -> None:
        self._untold: dict[str, int] = {}
        self._told_at: dict[str, float] = {}

    def note(self, reason: str, now: float) -> int:
        """One more at ``now`` (seconds, monotonic). How many to tell of at once, it included; 0 for none."""
        count = self._untold[reason] = self._untold.get(reason, 0) + 1
        told_at = self._told_at.get(reason)
        if told_at is not None and now - told_at < INTERVAL_S:
            return 0
        self._untold[reason] = 0
        self._told_at[reason] = now
        return count

    def take_due(self, now: float) -> list[tuple[str, int]]:
        """Those whose interval is over, with how many there were in it; they count as told."""
        reasons = [each for each, told_at in self._told_at.items() if now - told_at >= INTERVAL_S]
        return self._take(reasons, now)

    def take_all(self, now: float) -> list[tuple[str, int]]:
        """What was not told yet, at the end."""
        return self._take(list(self._untold), now)

    def _take(self, reasons: list[str], now: float) -> list[tuple[str, int]]:
        found = [(reason, self._untold[reason]) for reason in reasons if self._untold[reason]]
        for reason, _ in found:
            self._untold[reason] = 0
            self._told_at[reason] = now
        return found
