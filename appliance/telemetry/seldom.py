"""Log lines that others can cause again and again, of which few are worth reading: with how often. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

MAX_KEYS: Final = 64
"""Different ones that are said within `EVERY_S`; more are not said before the oldest is forgotten."""

EVERY_S: Final = 300.0
"""A peer that is refused comes again every 2 s: one line at the first time, then one in five minutes."""


@dataclass(slots=True)
class _Said:
    at: float
    since: int = 0


class Seldom:
    """Says which of the same events are worth a line; ``now`` in seconds, monotonic, in the order of time."""

    def __init__(self, every_s: float = EVERY_S, max_keys: int = MAX_KEYS) -> None:
        self._every_s = every_s
        self._max_keys = max_keys
        self._said: dict[Hashable, _Said] = {}  # in the order in which they were said

    def note(self, key: Hashable, now: float) -> int:
        """How often it has happened since it was said last, this time included; 0 where it is not to be said now."""
        known = self._said.get(key)
        if known is not None and now - known.at < self._every_s:
            known.since += 1
            return 0
        self._said.pop(key, None)
        if len(self._said) >= self._max_keys:
            self._forget(now)
        if len(self._said) >= self._max_keys:
            return 0
        self._said[key] = _Said(now)
        return known.since + 1 if known else 1

    def take_due(self, now: float) -> list[tuple[Hashable, int]]:
        """What may be said again, with how often it has happened since; it counts as said."""
        return self._take([key for key, said in self._said.items() if now - said.at >= self._every_s], now)

    def take_all(self, now: float) -> list[tuple[Hashable, int]]:
        """The same of all, at the end."""
        return self._take(list(self._said), now)

    def _take(self, keys: list[Hashable], now: float) -> list[tuple[Hashable, int]]:
        found = [(key, self._said[key].since) for key in keys if self._said[key].since]
        for key, _ in found:
            del self._said[key]
            self._said[key] = _Said(now)
        return found

    def _forget(self, now: float) -> None:
        for key, said in list(self._said.items()):
            # Those that come again meanwhile are told how often it was.
            if now - said.at < 2 * self._every_s:
                return
            del self._said[key]
