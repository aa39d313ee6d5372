"""When something that lasts (a stream that waits, peers that stay away) is worth a log line: too long, and over."""

from dataclasses import dataclass
from enum import StrEnum


class Held(StrEnum):
    """What is to be said now."""

    BEGINS = "begins"
    ENDS = "ends"


@dataclass(slots=True)
class HeldWatch:
    """Asked now and then with how long it has lasted: the oldest entry's waiting, say. Times in seconds."""

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
