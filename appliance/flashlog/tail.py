"""The newest entries in memory, so that the head of the stream is served without a query."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

_position = attrgetter("position")


@dataclass(frozen=True, slots=True)
class TailLimits:
    """Bounds of the tail; when either is reached the oldest entries leave it (they stay on disk).

    4,096 entries of 20 KB would be 80 MB; the byte bound holds that to about ten minutes of one chain.
    """

    max_entries: int = 4096
    max_bytes: int = 64 * 2**20


class Positioned(Protocol):
    """An `Entry`, or a `Record`."""

    @property
    def position(self) -> int: ...
    @property
    def body(self) -> bytes: ...


T = TypeVar("T", bound=Positioned)


class Tail(Generic[T]):
    """Every entry after ``floor``, in log order."""

    def __init__(self, floor: int, entries: Iterable[T] = (), limits: TailLimits = TailLimits()) -> None:
        self.floor = floor
        self.bytes = 0
        self._entries: list[T] = []
        self._limits = limits
        self.extend(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Tail {len(self)} entries after {self.floor}, {self.bytes} bytes>"

    def extend(self, entries: Iterable[T]) -> None:
        """Take entries that follow the last one, and let go of the oldest beyond the bounds."""
        for entry in entries:
            self._entries.append(entry)
            self.bytes += len(entry.body)
        self._trim()

    def discard(self, positions: Iterable[int]) -> None:
        """Let go of entries that lost their place in the log."""
        gone = set(positions)
        self.bytes -= sum(len(entry.body) for entry in self._entries if entry.position in gone)
        self._entries = [entry for entry in self._entries if entry.position not in gone]

    def recent(self, after: int, limit: int, through: int) -> list[T] | None:
        """Return up to ``limit`` entries with ``after`` < position <= ``through``; None when older ones are due."""
        if after < self.floor:
            return None
        start = bisect_right(self._entries, after, key=_position)
        found = self._entries[start : start + limit]
        while found and found[-1].position > through:
            found.pop()
        return found

    def _trim(self) -> None:
        leaving = 0
        while leaving < len(self._entries) and self._is_over(leaving):
            self.bytes -= len(self._entries[leaving].body)
            leaving += 1
        if leaving:
            self.floor = self._entries[leaving - 1].position
            del self._entries[:leaving]

    def _is_over(self, leaving: int) -> bool:
        return len(self._entries) - leaving > self._limits.max_entries or self.bytes > self._limits.max_bytes
