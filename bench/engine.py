"""`python -m bench.engine`: what the appliance adds to the Engine API's latency, alone and while it serves subscribers.

Each request is sent twice in a row, once to the execution client itself and once through the appliance, in
alternating order. The execution client and the builder are other processes that answer at once. Two more
parts measure what a builder costs that hangs, and bursts of forkchoiceUpdated.
"""

import argparse
import gc
import pathlib
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench import blocks, engine_burst, engine_hanging
from bench.caller import CallError
from bench.children import Child, ChildError
from bench.machine import Machine, cpu_s, describe, raise_file_limit
from bench.output import Check, Progress, checks_table, make_console, progress, write_json
from bench.percentiles import Summary
from bench.processes import Processes, started
from bench.subscribers import Deliveries, Subscribers

ALONE, LOADED = "alone", "loaded"
FCU, BUILD = "FCU", "FCU with attributes"
GET_EL, GET_BUILDER = "getPayload: EL's block", "getPayload: builder's block"
REQUESTS = (FCU, BUILD, GET_EL, GET_BUILDER)
WARM_UP = 3
EL_BUILD_S = 0.005  # between a build of the EL alone and its getPayload
# When in its slot a block of the builder is asked for, at random: every phase of a broadcast is met as often as
# it lasts. Not before a tenth, so that the flashblock is in the log: getPayload is the fence for it.
BUILDER_BUILD = (0.1, 0.95)
FIRST_TIMESTAMP = 0x66000000
JUDGED_BYTES, LARGE_BYTES = 10_240, 3_145_728
P50_TARGET_MS, P99_TARGET_MS, LATE_TARGET_MS = 1.0, 5.0, 200.0
LARGE_TARGET = 0.25  # of the direct call
LATENCY, HANGING, BURST = PARTS = ("latency", "hanging", "burst")


class Settings(msgspec.Struct, frozen=True):
    """The size of a run. One slot, one flashblock: ``rate`` is of both; ``burst_rate`` is of FCU a second."""

    parts: tuple[str, ...] = PARTS
    sizes: tuple[int, ...] = (JUDGED_BYTES, 307_200, LARGE_BYTES)
    samples: int = 100
    subscribers: int = 5000
    message_size: int = 20_480
    rate: float = 5.0
    receivers: int = 2
    builders: tuple[int, ...] = (1, 3, 8)
    hanging_slots: int = 60
    burst_rate: float = 500.0
    burst_seconds: float = 5.0


QUICK = Settings(samples=8, subscribers=500, receivers=1, builders=(1, 3), hanging_slots=20, burst_seconds=2.0)


class Latency(msgspec.Struct, frozen=True):
    """One kind of request, directly and through the appliance, in ms."""

    load: str
    size: int
    request: str
    direct_ms: Summary
    through_ms: Summary

    @property
    def added_p50_ms(self) -> float:
        return self.through_ms.p50 - self.direct_ms.p50

    @property
    def added_p99_ms(self) -> float:
        return self.through_ms.p99 - self.direct_ms.p99


class Latencies(msgspec.Struct, frozen=True):
    """The first part. ``busy`` is the appliance's CPU while loaded, 1.0 is one core."""

    latencies: list[Latency]
    deliveries: Deliveries | None = None
    busy: float = 0.0
    slots_per_s: float = 0.0


class Result(msgspec.Struct, frozen=True):
    """The whole run, as the JSON file has it; parts that were not wanted are None."""

    machine: Machine
    settings: Settings
    latency: Latencies | None
    hanging: list[engine_hanging.Hanging] | None
    burst: engine_burst.Burst | None
    checks: list[Check]


Samples = dict[str, tuple[list[float], list[float]]]
"""(directly, through the appliance) by request, in s."""


class Calls(Protocol):
    """What the driver needs of a connection."""

    def call(self, body: bytes) -> tuple[bytes, float]:
        """(answer, seconds)."""


class Driver:
    """The op-node: the same requests to the execution client and to the appliance."""

    def __init__(self, direct: Calls, through: Calls) -> None:
        self._direct = direct
        self._through = through
        self._direct_first = False
        self._number = 0
        self._samples: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        self._random = random.Random(1)

    def run(self, slots: int, slot_s: float) -> Samples:
        """So many slots, after a few that do not count."""
        left = iter(range(WARM_UP - 1))
        self.run_while(lambda: next(left, None) is not None, slot_s)
        left = iter(range(slots - 1))
        return self.run_while(lambda: next(left, None) is not None, slot_s)

    def run_while(self, goes_on: Callable[[], bool], slot_s: float) -> Samples:
        """At least one slot, and another one as long as ``goes_on``."""
        self._samples.clear()
        began, slot = time.monotonic(), 0
        self._slot(slot_s)
        while goes_on():
            slot += 1
            time.sleep(max(0.0, began + slot * slot_s - time.monotonic()))
            self._slot(slot_s)
        return dict(self._samples)

    def _slot(self, slot_s: float) -> None:
        """A block of the builder, which takes most of the slot, and a block of the EL alone."""
        self._direct_first = not self._direct_first
        self._block(GET_BUILDER, l2_only=False, wait_s=self._random.uniform(*BUILDER_BUILD) * slot_s)
        self._block(GET_EL, l2_only=True, wait_s=EL_BUILD_S)

    def _block(self, request: str, *, l2_only: bool, wait_s: float) -> None:
        number = self._next()
        body = blocks.build(number, FIRST_TIMESTAMP + number, l2_only=l2_only)
        direct, through = self._pair(BUILD, body)
        time.sleep(wait_s)
        self._pair(FCU, blocks.forkchoice_updated(self._next()))
        asked = [blocks.get_payload(self._next(), blocks.payload_id(answer)) for answer in (direct, through)]
        role = blocks.EL if l2_only else blocks.BUILDER
        _, answer = self._pair(request, *asked)
        if blocks.HASH_PREFIX[role].encode() not in answer[:4096]:
            raise ChildError(f"{request}: the appliance answered {answer[:300]!r}")

    def _pair(self, request: str, direct: bytes, through: bytes | None = None) -> tuple[bytes, bytes]:
        """Both answers. Who is asked first alternates from slot to slot: the first one finds the caches cold."""
        direct_s, through_s = self._samples[request]
        bodies = [(self._direct, direct, direct_s), (self._through, through or direct, through_s)]
        answers = {}
        for caller, body, samples in bodies if self._direct_first else reversed(bodies):
            answers[caller], took_s = caller.call(body)
            samples.append(took_s)
        return answers[self._direct], answers[self._through]

    def _next(self) -> int:
        self._number += 1
        return self._number


class Bench:
    """Steers the processes through one run."""

    def __init__(
        self,
        settings: Settings,
        processes: Processes,
        subscribers: Subscribers,
        driver: Driver,
    ) -> None:
        self._settings = settings
        self._processes = processes
        self._subscribers = subscribers
        self._driver = driver

    def run(self, note: Progress) -> Latencies:
        latencies = [one for size in self._settings.sizes for one in self._measure(ALONE, size, note)]
        if not self._settings.subscribers:
            return Latencies(latencies)
        appliance = self._processes.appliance
        note(f"connecting {self._settings.subscribers} subscribers")
        self._subscribers.connect(LOADED, appliance.fanout_port, "/ws", 1, count=self._settings.subscribers)
        self._builder.ask("stream", bytes=self._settings.message_size)
        began, used_s = time.monotonic(), cpu_s(appliance.pid)
        for size in self._settings.sizes:
            latencies += self._measure(LOADED, size, note)
        took_s = time.monotonic() - began
        busy = (cpu_s(appliance.pid) - used_s) / took_s
        deliveries, slots = self._collect(self._processes.folder)
        return Latencies(latencies, deliveries, busy, slots / took_s)

    @property
    def _builder(self) -> Child:
        return self._processes.builders[0]

    def _measure(self, load: str, size: int, note: Progress) -> list[Latency]:
        note(f"{load}: {self._settings.samples} blocks of {size:,} bytes")
        self._processes.resize(size)
        samples = self._driver.run(self._settings.samples, 1 / self._settings.rate)
        return [
            Latency(load, size, request, *(Summary.of(taken).scaled(1e3) for taken in samples[request]))
            for request in REQUESTS
        ]

    def _collect(self, folder: pathlib.Path) -> tuple[Deliveries, int]:
        published: dict[int, float] = dict(self._builder.ask("published")["published"])
        self._subscribers.wait(LOADED, max(published))
        arrivals = self._subscribers.finish(LOADED, published, folder)
        return arrivals.deliveries(published), len(published)


def judge(latencies: Sequence[Latency], deliveries: Deliveries | None) -> list[Check]:
    """The targets, which are about 10 KB and, for getPayload alone, 3 MB."""
    checks = [check for one in latencies if one.size == JUDGED_BYTES for check in _judge_latency(one)]
    large = [one for one in latencies if one.size == LARGE_BYTES and one.load == ALONE]
    checks += [_judge_large(one) for one in large if one.request in (GET_EL, GET_BUILDER)]
    if deliveries is None:
        return checks
    latest_ms = deliveries.delay_ms.max
    late = Check(
        "latest delivery",
        f"<= {LATE_TARGET_MS:.0f} ms",
        f"{latest_ms:.0f} ms",
        latest_ms <= LATE_TARGET_MS,
    )
    wrong = Check("lost, duplicated, closed", "0", str(deliveries.faults), deliveries.faults == 0)
    return [*checks, late, wrong]


def _judge_latency(one: Latency) -> list[Check]:
    return [
        Check(
            f"{one.load}: {one.request}, added {name}",
            f"<= {target:g} ms",
            f"{added:.2f} ms",
            added <= target,
        )
        for name, target, added in (
            ("p50", P50_TARGET_MS, one.added_p50_ms),
            ("p99", P99_TARGET_MS, one.added_p99_ms),
        )
    ]


def _judge_large(one: Latency) -> Check:
    share = one.added_p50_ms / one.direct_ms.p50
    return Check(
        f"{one.load}: {one.request} of 3 MB, added p50", f"<= {LARGE_TARGET:.0%}", f"{share:.0%}", share <= LARGE_TARGET
    )


def run(settings: Settings, console: Console) -> Result:
    """One whole run; ChildError or CallError when a process fails."""
    machine = describe()
    latency, hanging, burst = None, None, None
    checks: list[Check] = []
    with progress(console) as note:
        if LATENCY in settings.parts:
            latency = _run_latency(settings, note)
            checks += judge(latency.latencies, latency.deliveries)
        if HANGING in settings.parts:
            hanging = engine_hanging.measure(settings.builders, settings.hanging_slots, note)
            checks += engine_hanging.judge(hanging)
        if BURST in settings.parts:
            burst = engine_burst.measure(settings.burst_rate, settings.burst_seconds, note)
            checks += engine_burst.judge(burst, settings.burst_rate)
    return Result(machine, settings, latency, hanging, burst, checks)


def _run_latency(settings: Settings, note: Progress) -> Latencies:
    with ExitStack() as stack:
        note("starting the processes")
        processes = stack.enter_context(started(1, subscribers=settings.subscribers))
        receivers = [stack.enter_context(Child("bench.receiver")) for _ in range(settings.receivers)]
        gc.freeze()
        subscribers = Subscribers(receivers)
        driver = Driver(processes.direct, processes.through)
        return Bench(settings, processes, subscribers, driver).run(note)


def table(latencies: Sequence[Latency]) -> Table:
    shown = Table(title="latency in ms: directly, and what the appliance adds", title_justify="left", box=box.SIMPLE)
    for heading in ("", "payload", "request"):
        shown.add_column(heading)
    for heading in ("direct p50", "p99", "added p50", "p99", "ratio p50", "p99", "samples"):
        shown.add_column(heading, justify="right")
    for one in latencies:
        direct, through = one.direct_ms, one.through_ms
        times = [f"{value:.2f}" for value in (direct.p50, direct.p99, one.added_p50_ms, one.added_p99_ms)]
        ratios = [f"{through.p50 / direct.p50:.1f} x", f"{through.p99 / direct.p99:.1f} x"]
        size = f"{one.size / 1024:,.0f} KiB"
        shown.add_row(one.load, size, one.request, *times, *ratios, str(through.count))
    return shown


def show(result: Result, console: Console) -> None:
    console.print(f"machine: {result.machine}")
    if result.latency is not None:
        console.print(table(result.latency.latencies))
        if result.latency.deliveries is not None:
            console.print(_describe_load(result.latency, result.latency.deliveries, result.settings.subscribers))
    if result.hanging is not None:
        console.print(engine_hanging.table(result.hanging))
    if result.burst is not None:
        console.print(engine_burst.describe(result.burst))
    console.print(checks_table(result.checks))


def _describe_load(latency: Latencies, got: Deliveries, subscribers: int) -> str:
    delay = got.delay_ms
    return (
        f"loaded: {subscribers} subscribers, {latency.slots_per_s:.1f} messages a second, "
        f"appliance {latency.busy:.0%} of a core; {got.count} deliveries, p50 {delay.p50:.0f} ms, "
        f"p99 {delay.p99:.0f} ms, max {delay.max:.0f} ms, lost {got.lost}, twice {got.duplicated}, "
        f"closed {got.closed}"
    )


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, pathlib.Path | None]:
    """Settings from the command line: `--quick` changes the defaults, what is given wins."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run of about 30 s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="of the bench, default all")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="BYTES", help=f"of a payload, default {defaults.sizes}")
    parser.add_argument("--samples", type=int, help=f"blocks of each size, default {defaults.samples}")
    parser.add_argument("--subscribers", type=int, help=f"0 for none at all, default {defaults.subscribers}")
    parser.add_argument("--message-size", type=int, help=f"bytes, default {defaults.message_size}")
    parser.add_argument("--rate", type=float, help=f"messages a second, default {defaults.rate:g}")
    parser.add_argument("--receivers", type=int, help=f"client processes, default {defaults.receivers}")
    parser.add_argument("--builders", type=int, nargs="+", metavar="N", help=f"default {defaults.builders}")
    parser.add_argument("--hanging-slots", type=int, help=f"of each phase, default {defaults.hanging_slots}")
    parser.add_argument("--burst-rate", type=float, help=f"FCU a second, default {defaults.burst_rate:g}")
    parser.add_argument("--burst-seconds", type=float, help=f"default {defaults.burst_seconds:g}")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    given = vars(parser.parse_args(arguments))
    if given.pop("quick"):
        defaults = QUICK
    file: pathlib.Path | None = given.pop("json")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    changes = {name: value for name, value in {**given, **lists}.items() if value is not None}
    return msgspec.structs.replace(defaults, **changes), file


def main() -> int:
    settings, file = parse()
    raise_file_limit()
    console = make_console()
    try:
        result = run(settings, console)
    except (ChildError, CallError) as error:
        print(f"bench.engine: {error}", file=sys.stderr)
        return 1
    show(result, console)
    if file is not None:
        write_json(file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
