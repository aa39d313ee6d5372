"""Many subscribers in a few receiver processes, as one thing to steer."""

import array
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence

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


class Subscribers:
    """``count`` subscribers to each of the servers that they are connected to; a group is one server's."""

    def __init__(self, count: int, receivers: Sequence[Child]) -> None:
        self.count = count
        self._receivers = receivers

    def connect(self, group: str, port: int, path: str, indices: int) -> float:
        """All of them to one server; handshakes a second. ChildError when one was refused."""
        started = time.monotonic()
        for receiver, count in zip(self._receivers, shares(self.count, len(self._receivers)), strict=True):
            where = {"host": "127.0.0.1", "port": port, "path": path}
            receiver.send("connect", group=group, count=count, indices=indices, **where)
        answers = [receiver.answer(CONNECT_TIMEOUT_S) for receiver in self._receivers]
        took_s = time.monotonic() - started
        connected = sum(answer["connected"] for answer in answers)
        if connected != self.count:
            raise ChildError(f"{group} took {connected} subscribers: {answers[0]['refused']}")
        return self.count / took_s

    def wait(self, group: str, messages: int) -> None:
        """Until every subscriber has had that many messages, or ten seconds: `finish` says what is missing."""
        deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
        while time.monotonic() < deadline:
            asked = [receiver.ask("progress", group=group) for receiver in self._receivers]
            if sum(answer["received"] for answer in asked) >= messages * self.count:
                return
            time.sleep(POLL_S)

    def finish(
        self, group: str, published: Mapping[int, float], measured: Collection[int], folder: pathlib.Path
    ) -> Deliveries:
        """Check all of ``published`` (number -> time) for gaps; delays of those in ``measured``."""
        first, last = min(published), max(published)
        files = [folder / f"{group}-{number}" for number in range(len(self._receivers))]
        answers = [
            receiver.ask("finish", group=group, first=first, last=last, file=str(file))
            for receiver, file in zip(self._receivers, files, strict=True)
        ]
        delays = [
            (arrived - published[number]) * 1e3
            for file, answer in zip(files, answers, strict=True)
            for number, arrived in read_arrivals(file, answer["received"])
            if number in measured
        ]
        counted = {key: sum(answer[key] for answer in answers) for key in ("lost", "duplicated", "closed")}
        return Deliveries(len(delays), Summary.of(delays), **counted)


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
