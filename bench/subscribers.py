"""Many subscribers in a few receiver processes, as one thing to steer."""

import array
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from bench.children import Child, ChildError
from bench.percentiles import Summary

CONNECT_TIMEOUT_S = 120.0
ARRIVAL_TIMEOUT_S = 10.0
POLL_S = 0.1


class Deliveries(msgspec.Struct, frozen=True):
    """What arrived. Delays in ms, from the publication to the arrival of the last byte."""

    count: int
    delay_ms: Summary
    lost: int
    duplicated: int
    closed: int

    @property
    def faults(self) -> int:
        return self.lost + self.duplicated + self.closed


class Storm(msgspec.Struct, frozen=True):
    """A group that came back at once: from the first connect to the last 101, seconds of the monotonic clock."""

    began: float
    answered_at: float


class Subscribers:
    """The subscribers of all servers; a group is one server's. In a group all ``encodings`` take turns."""

    def __init__(self, receivers: Sequence[Child], *, encodings: Sequence[str] = ("text",)) -> None:
        self._encodings = list(encodings)
        self._receivers = receivers
        self._reading: dict[str, int] = {}

    def connect(self, group: str, port: int, path: str, indices: int, *, count: int, stuck: int = 0) -> float:
        """``count`` to one server, of which ``stuck`` read nothing; handshakes a second. ChildError when refused."""
        started = time.monotonic()
        where = {"host": "127.0.0.1", "port": port, "path": path, "indices": indices, "encodings": self._encodings}
        parts = len(self._receivers)
        for receiver, mine, lazy in zip(self._receivers, shares(count, parts), shares(stuck, parts), strict=True):
            receiver.send("connect", group=group, count=mine, stuck=lazy, **where)
        self._reading[group] = count - stuck
        self._answers(group, count)
        return count / (time.monotonic() - started)

    def drop(self, groups: Sequence[str]) -> None:
        """Break the connections of all who read."""
        for receiver in self._receivers:
            receiver.send("drop", groups=groups)
        for receiver in self._receivers:
            receiver.answer()

    def reconnect(self, groups: Sequence[str], meanwhile: Callable[[Callable[[], bool]], None]) -> Storm:
        """All who read, at once. ``meanwhile`` gets what says whether it still goes on, and returns soon after."""
        began = time.monotonic()
        for receiver in self._receivers:
            receiver.send("reconnect", groups=groups)
        deadline = began + CONNECT_TIMEOUT_S
        meanwhile(lambda: time.monotonic() < deadline and not all(one.has_answered() for one in self._receivers))
        return Storm(began, self._answers(", ".join(groups), sum(self._reading[group] for group in groups)))

    def _answers(self, group: str, count: int) -> float:
        """When the last of ``count`` was answered."""
        answers = [receiver.answer(CONNECT_TIMEOUT_S) for receiver in self._receivers]
        connected = sum(answer["connected"] for answer in answers)
        if connected != count:
            refused = [why for answer in answers for why in answer["refused"]]
            raise ChildError(f"{group} took {connected} of {count} subscribers: {refused[:3]}")
        return max(float(answer["answered_at"]) for answer in answers)

    def wait(self, group: str, last: int) -> None:
        """Until every reader has had the message ``last``, or ten seconds: `finish` says what is missing.

        Not by their count: who came while some were on their way has had more of the earlier ones.
        """
        deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
        while time.monotonic() < deadline:
            asked = [receiver.ask("progress", group=group, last=last) for receiver in self._receivers]
            if sum(answer["through"] for answer in asked) >= self._reading[group]:
                return
            time.sleep(POLL_S)

    def finish(self, group: str, published: Mapping[int, float], folder: pathlib.Path) -> "Arrivals":
        """Check all of ``published`` (number -> time) for gaps, and collect what arrived."""
        first, last = min(published), max(published)
        files = [folder / f"{group}-{number}" for number in range(len(self._receivers))]
        answers = [
            receiver.ask("finish", group=group, first=first, last=last, file=str(file))
            for receiver, file in zip(self._receivers, files, strict=True)
        ]
        found = [
            arrival
            for file, answer in zip(files, answers, strict=True)
            for arrival in read_arrivals(file, answer["received"])
        ]
        counted = {key: sum(answer[key] for answer in answers) for key in ("lost", "duplicated", "closed")}
        # Receivers count every number that is missing in between, also those that nobody was to get.
        counted["lost"] -= (last - first + 1 - len(published)) * self._reading[group]
        return Arrivals(published, found, **counted)


class Arrivals:
    """All that came to one group: (number, time) of each delivery, in no order."""

    def __init__(
        self,
        published: Mapping[int, float],
        found: Sequence[tuple[int, float]],
        *,
        lost: int = 0,
        duplicated: int = 0,
        closed: int = 0,
    ) -> None:
        self._published = published
        self._found = found
        self.faults = {"lost": lost, "duplicated": duplicated, "closed": closed}

    def __add__(self, other: "Arrivals") -> "Arrivals":
        """Those of two groups that were sent the same."""
        faults = {name: count + other.faults[name] for name, count in self.faults.items()}
        return Arrivals(self._published, [*self._found, *other._found], **faults)

    def deliveries(self, measured: Collection[int]) -> Deliveries:
        """The delays of those in ``measured``; faults are those of all."""
        delays = [(at - self._published[number]) * 1e3 for number, at in self._found if number in measured]
        return Deliveries(len(delays), Summary.of(delays), **self.faults)

    def caught_up_s(self, storm: Storm) -> float:
        """From the begin of a storm until each had all that was published before the last one was answered."""
        newest = max(number for number, at in self._published.items() if at <= storm.answered_at)
        last = max((at for number, at in self._found if number == newest), default=storm.answered_at)
        return max(last, storm.answered_at) - storm.began


def shares(total: int, parts: int) -> list[int]:
    """``total`` split as evenly as whole numbers allow."""
    return [total // parts + (number < total % parts) for number in range(parts)]


def read_arrivals(path: pathlib.Path, count: int) -> list[tuple[int, float]]:
    """(number, time) of each message that a receiver got."""
    numbers, times = array.array("Q"), array.array("d")
    with path.open("rb") as file:
        numbers.fromfile(file, count)
        times.fromfile(file, count)
    return list(zip(numbers, times, strict=True))
