"""The first part of the fan-out bench: what a delivery costs and how long it takes, against the plain send loop.

Rounds of the two alternate, so that what else the machine does hits both.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from bench.children import Child
from bench.fanout_settings import Settings
from bench.machine import resident_bytes
from bench.messages import INDICES
from bench.output import Progress
from bench.percentiles import Summary, median
from bench.subscribers import Deliveries, Subscribers

FLOOR, APPLIANCE = "floor", "appliance"
WARM_UP_MESSAGES = 5
EARLIER_BYTES = 4 * 2**20  # published before anybody comes: more than the sockets of a stuck reader take
EARLIER_RATE = 1000.0


class Side(msgspec.Struct, frozen=True):
    """What was measured of one server."""

    cpu_us_per_delivery: float
    deliveries: Deliveries


class Memory(msgspec.Struct, frozen=True):
    """Growth of the server's resident memory, bytes a subscriber."""

    connected: float
    after_load: float  # the log's own memory of recent entries is in it


class Steady(msgspec.Struct, frozen=True):
    """``pass_ms`` is how long the floor's loop takes for one message to all."""

    appliance: Side
    floor: Side
    pass_ms: Summary
    cost_ratio: float
    handshakes_per_s: float
    memory: Memory

    @property
    def delay_ratio(self) -> float:
        """The appliance's p99 of delivery over the median pass of the floor."""
        return self.appliance.deliveries.delay_ms.p99 / self.pass_ms.p50


@dataclass
class Server:
    """One of the two that send: its process, what it has published, and what each round cost."""

    name: str
    child: Child
    path: str
    readers: int
    published: dict[int, float] = field(default_factory=dict)
    measured: set[int] = field(default_factory=set)
    cpu_us: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    awaited: int = 0  # messages that every reader must have had

    def cpu_s(self) -> float:
        """CPU that the process has used so far, all threads."""
        used: float = self.child.ask("cpu")["cpu_s"]
        return used

    def publish(self, messages: int, rate: float, size: int) -> range:
        """The numbers of the new messages, when all are published."""
        first = len(self.published)
        timeout_s = 60.0 + messages / rate
        answer = self.child.ask("round", timeout_s=timeout_s, first=first, messages=messages, rate=rate, size=size)
        self.published.update(enumerate(answer["published"], first))
        self.passes += answer.get("passes", [])
        return range(first, first + messages)


class Bench:
    """Steers the processes through one run."""

    def __init__(self, settings: Settings, floor: Server, appliance: Server, subscribers: Subscribers) -> None:
        self._settings = settings
        self._floor = floor
        self._appliance = appliance
        self._subscribers = subscribers

    def run(self, folder: pathlib.Path, note: Progress) -> Steady:
        """Connect, warm up, measure in turns, collect."""
        settings, pid = self._settings, self._appliance.child.pid
        self._publish_earlier(self._appliance)
        note(f"connecting {settings.subscribers} subscribers to each")
        empty = resident_bytes(pid)
        handshakes_per_s = self._connect(self._appliance, settings.stuck)
        connected = resident_bytes(pid) - empty
        self._connect(self._floor, 0)
        self._run_rounds(note)
        loaded = resident_bytes(pid) - empty
        note("collecting")
        memory = Memory(connected / settings.subscribers, loaded / settings.subscribers)
        appliance, floor = self._finish(self._appliance, folder), self._finish(self._floor, folder)
        pairs = zip(self._appliance.cpu_us, self._floor.cpu_us, strict=True)
        ratio = median([ours / least for ours, least in pairs])
        return Steady(appliance, floor, Summary.of(self._floor.passes).scaled(1e3), ratio, handshakes_per_s, memory)

    def _publish_earlier(self, server: Server) -> None:
        """Whole payloads, and the first message of the one that everybody then begins with."""
        payloads = EARLIER_BYTES // self._settings.size // INDICES
        server.publish(payloads * INDICES + 1, EARLIER_RATE, self._settings.size)
        server.awaited = 1

    def _connect(self, server: Server, stuck: int) -> float:
        """The floor has no stuck ones: it could only wait for them."""
        count, port = server.readers + stuck, server.child.ready["port"]
        return self._subscribers.connect(server.name, port, server.path, INDICES, count=count, stuck=stuck)

    def _run_rounds(self, note: Progress) -> None:
        for server in (self._floor, self._appliance):
            self._publish(server, WARM_UP_MESSAGES)
        self._floor.passes.clear()
        for number in range(self._settings.rounds):
            for server in (self._floor, self._appliance):
                note(f"round {number + 1} of {self._settings.rounds}: {server.name}")
                self._run_round(server)

    def _publish(self, server: Server, messages: int) -> range:
        """Publish, and wait until all of it has arrived."""
        numbers = server.publish(messages, self._settings.rate, self._settings.size)
        server.awaited += messages
        self._subscribers.wait(server.name, numbers[-1])
        return numbers

    def _run_round(self, server: Server) -> None:
        """Note what a round cost."""
        began_s = server.cpu_s()
        numbers = self._publish(server, self._settings.messages)
        used_s = server.cpu_s() - began_s
        server.cpu_us.append(used_s * 1e6 / (len(numbers) * server.readers))
        server.measured.update(numbers)

    def _finish(self, server: Server, folder: pathlib.Path) -> Side:
        first = len(server.published) - server.awaited
        expected = {number: at for number, at in server.published.items() if number >= first}
        arrivals = self._subscribers.finish(server.name, expected, folder)
        return Side(median(server.cpu_us), arrivals.deliveries(server.measured))


def measure(settings: Settings, note: Progress) -> Steady:
    """ChildError when a process fails."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        note(f"starting {2 + settings.receivers} processes")
        arguments = ("--folder", folder, "--subscribers", str(settings.subscribers))
        readers = settings.subscribers - settings.stuck
        appliance = stack.enter_context(Child("bench.fanout_server", *arguments))
        floor = stack.enter_context(Child("bench.floor"))
        servers = Server(FLOOR, floor, "/", readers), Server(APPLIANCE, appliance, "/ws", readers)
        receivers = start_receivers(settings.receivers, stack)
        subscribers = Subscribers(receivers, encodings=settings.encodings)
        return Bench(settings, *servers, subscribers).run(pathlib.Path(folder), note)


def start_receivers(count: int, stack: ExitStack) -> Sequence[Child]:
    return [stack.enter_context(Child("bench.receiver")) for _ in range(count)]
