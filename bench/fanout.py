"""`python -m bench.fanout`: what one delivery to one subscriber costs, against the least that it can cost.

Three kinds of processes: the appliance's log and fan-out, a floor (a plain send loop), and receivers that
are subscribed to both. Rounds of the two alternate, so that what else the machine does hits both.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench.children import Child, ChildError
from bench.machine import Machine, describe, raise_file_limit, resident_bytes
from bench.messages import INDICES
from bench.output import Check, Progress, checks_table, make_console, progress, write_json
from bench.percentiles import median
from bench.subscribers import Deliveries, Subscribers

FLOOR, APPLIANCE = "floor", "appliance"
WARM_UP_MESSAGES = 5
COST_TARGET = 1.5
LATE_TARGET_MS = 200.0
MEMORY_TARGET_BYTES = 30_000


class Settings(msgspec.Struct, frozen=True):
    """The size of a run."""

    subscribers: int = 5000
    size: int = 20_480
    rate: float = 5.0
    seconds: float = 8.0
    rounds: int = 3
    receivers: int = 2

    @property
    def messages(self) -> int:
        """A round's."""
        return max(1, round(self.seconds * self.rate))


QUICK = Settings(subscribers=500, seconds=2.0, rounds=2, receivers=1)


class Side(msgspec.Struct, frozen=True):
    """What was measured of one server."""

    cpu_us_per_delivery: float
    deliveries: Deliveries


class Memory(msgspec.Struct, frozen=True):
    """Growth of the server's resident memory, bytes a subscriber."""

    connected: float
    after_load: float  # the log's own memory of recent entries is in it


class Result(msgspec.Struct, frozen=True):
    """The whole run, as the JSON file has it."""

    machine: Machine
    settings: Settings
    appliance: Side
    floor: Side
    cost_ratio: float
    handshakes_per_s: float
    memory: Memory
    checks: list[Check]


@dataclass
class Server:
    """One of the two that send: its process, what it has published, and what each round cost."""

    name: str
    child: Child
    path: str
    published: dict[int, float] = field(default_factory=dict)
    measured: set[int] = field(default_factory=set)
    cpu_us: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        """CPU that the process has used so far, all threads."""
        used: float = self.child.ask("cpu")["cpu_s"]
        return used

    def publish(self, messages: int, settings: Settings) -> range:
        """The numbers of the new messages, when all are published."""
        first = len(self.published)
        times: list[float] = self.child.ask(
            "round",
            timeout_s=60.0 + messages / settings.rate,
            first=first,
            messages=messages,
            rate=settings.rate,
            size=settings.size,
        )["published"]
        self.published.update(enumerate(times, first))
        return range(first, first + messages)


class Bench:
    """Steers the processes through one run."""

    def __init__(self, settings: Settings, floor: Server, appliance: Server, subscribers: Subscribers) -> None:
        self._settings = settings
        self._floor = floor
        self._appliance = appliance
        self._subscribers = subscribers

    def run(self, folder: pathlib.Path, note: Progress) -> Result:
        """Connect, warm up, measure in turns, collect."""
        machine = describe()
        note(f"connecting {self._settings.subscribers} subscribers to each")
        empty = resident_bytes(self._appliance.child.pid)
        handshakes_per_s = self._connect(self._appliance)
        connected = resident_bytes(self._appliance.child.pid) - empty
        self._connect(self._floor)
        self._run_rounds(note)
        loaded = resident_bytes(self._appliance.child.pid) - empty
        note("collecting")
        memory = Memory(connected / self._settings.subscribers, loaded / self._settings.subscribers)
        appliance, floor = self._finish(self._appliance, folder), self._finish(self._floor, folder)
        pairs = zip(self._appliance.cpu_us, self._floor.cpu_us, strict=True)
        ratio = median([ours / least for ours, least in pairs])
        checks = judge(appliance.deliveries, ratio, memory)
        return Result(machine, self._settings, appliance, floor, ratio, handshakes_per_s, memory, checks)

    def _connect(self, server: Server) -> float:
        return self._subscribers.connect(server.name, server.child.ready["port"], server.path, INDICES)

    def _run_rounds(self, note: Progress) -> None:
        for server in (self._floor, self._appliance):
            server.publish(WARM_UP_MESSAGES, self._settings)
            self._subscribers.wait(server.name, len(server.published))
        for number in range(self._settings.rounds):
            for server in (self._floor, self._appliance):
                note(f"round {number + 1} of {self._settings.rounds}: {server.name}")
                self._run_round(server)

    def _run_round(self, server: Server) -> None:
        """Publish, wait until all of it has arrived, and note what it cost."""
        began_s = server.cpu_s()
        numbers = server.publish(self._settings.messages, self._settings)
        self._subscribers.wait(server.name, len(server.published))
        used_s = server.cpu_s() - began_s
        server.cpu_us.append(used_s * 1e6 / (len(numbers) * self._settings.subscribers))
        server.measured.update(numbers)

    def _finish(self, server: Server, folder: pathlib.Path) -> Side:
        deliveries = self._subscribers.finish(server.name, server.published, server.measured, folder)
        return Side(median(server.cpu_us), deliveries)


def judge(deliveries: Deliveries, ratio: float, memory: Memory) -> list[Check]:
    """The targets."""
    latest_ms = deliveries.delay_ms.max
    return [
        Check("CPU per delivery", f"<= {COST_TARGET} x the floor", f"{ratio:.2f} x", ratio <= COST_TARGET),
        Check("lost, duplicated, closed", "0", str(deliveries.faults), deliveries.faults == 0),
        Check(
            "latest delivery",
            f"<= {LATE_TARGET_MS:.0f} ms",
            f"{latest_ms:.0f} ms",
            latest_ms <= LATE_TARGET_MS,
        ),
        Check(
            "memory a subscriber",
            f"<= {MEMORY_TARGET_BYTES / 1000:.0f} KB",
            f"{memory.connected / 1000:.1f} KB",
            memory.connected <= MEMORY_TARGET_BYTES,
        ),
    ]


def run(settings: Settings, console: Console) -> Result:
    """One whole run; ChildError when a process fails."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        note = stack.enter_context(progress(console))
        note(f"starting {2 + settings.receivers} processes")
        arguments = ("--folder", folder, "--subscribers", str(settings.subscribers))
        appliance = Server(APPLIANCE, stack.enter_context(Child("bench.fanout_server", *arguments)), "/ws")
        floor = Server(FLOOR, stack.enter_context(Child("bench.floor")), "/")
        receivers = [stack.enter_context(Child("bench.receiver")) for _ in range(settings.receivers)]
        subscribers = Subscribers(settings.subscribers, receivers)
        return Bench(settings, floor, appliance, subscribers).run(pathlib.Path(folder), note)


def table(result: Result) -> Table:
    settings = result.settings
    title = (
        f"fan-out: {settings.subscribers} subscribers, {settings.size / 1024:.0f} KiB messages, "
        f"{settings.rate:g} a second, {settings.rounds} rounds of {settings.seconds:g} s"
    )
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("", "CPU a delivery", "p50", "p99", "max", "deliveries", "lost", "twice", "closed"):
        shown.add_column(heading, justify="right")
    for name, side in ((FLOOR, result.floor), (APPLIANCE, result.appliance)):
        got, delay = side.deliveries, side.deliveries.delay_ms
        times = [f"{value:.1f} ms" for value in (delay.p50, delay.p99, delay.max)]
        counts = [str(value) for value in (got.count, got.lost, got.duplicated, got.closed)]
        shown.add_row(name, f"{side.cpu_us_per_delivery:.2f} us", *times, *counts)
    return shown


def show(result: Result, console: Console) -> None:
    console.print(f"machine: {result.machine}")
    console.print(table(result))
    console.print(
        f"{result.handshakes_per_s:.0f} handshakes a second; memory a subscriber: "
        f"{result.memory.connected / 1000:.1f} KB connected, "
        f"{result.memory.after_load / 1000:.1f} KB after the load (the log's own with it)"
    )
    console.print(checks_table(result.checks))


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, pathlib.Path | None]:
    """Settings from the command line: `--quick` changes the defaults, what is given wins."""
    parser = argparse.ArgumentParser(prog="python -m bench.fanout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run of less than 20 s")
    parser.add_argument("--subscribers", type=int, help=f"default {Settings().subscribers}")
    parser.add_argument("--size", type=int, help=f"bytes of a message, default {Settings().size}")
    parser.add_argument("--rate", type=float, help=f"messages a second, default {Settings().rate:g}")
    parser.add_argument("--seconds", type=float, help=f"of a round, default {Settings().seconds:g}")
    parser.add_argument("--rounds", type=int, help=f"default {Settings().rounds}")
    parser.add_argument("--receivers", type=int, help=f"client processes, default {Settings().receivers}")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    given = vars(parser.parse_args(arguments))
    defaults = QUICK if given.pop("quick") else Settings()
    file: pathlib.Path | None = given.pop("json")
    changes = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(defaults, **changes), file


def main() -> int:
    settings, file = parse()
    raise_file_limit()
    console = make_console()
    try:
        result = run(settings, console)
    except ChildError as error:
        print(f"bench.fanout: {error}", file=sys.stderr)
        return 1
    show(result, console)
    if file is not None:
        write_json(file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
