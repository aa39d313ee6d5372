"""When a stream that waits for a majority is worth a log line: when it has waited too long, and when it goes on."""

from dataclasses import dataclass
from enum import StrEnum


class Held(StrEnum):
    """What is to be said now."""

    BEGINS = "begins"
    ENDS = "ends"


@dataclass(slots=True)
class HeldWatch:
    """Asked now and then with how long the oldest entry has been waiting. Times in seconds."""

    timeout_s: float
    longest_s: float = 0.0
    """Of the time that is being said, or was said last."""
    _is_said: bool = False

    def look(self, held_s: float) -> Held | None:
        """What there is to say."""
        if held_s > self.timeout_s:
            self.longest_s = held_s
            begins = not self._is_said
            self._is_said = True
            return Held.BEGINS if begins else None
        ends = self._is_said
        self._is_said = False
        return Held.ENDS if ends else None
