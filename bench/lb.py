"""`python -m bench.lb`: what the load balancer adds, how many requests it relays, and what priorities are worth.

Each case is measured in turns against the back end directly, through a bare proxy (`bench.lb_bare_proxy`: trio,
httptools and nothing else) and through the appliance, so that what else the machine does meets them alike.
"""

import argparse
import gc
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from appliance.lb.queue import Priority, PriorityQueue, QueueRules
from bench.children import Child, ChildError
from bench.lb_process import LoadBalancerProcess
from bench.machine import Machine, cpu_s, describe, raise_file_limit
from bench.output import Check, Progress, checks_table, make_console, progress, write_json
from bench.percentiles import Summary

DIRECT, FLOOR, BARE, APPLIANCE = "direct", "bare sockets", "bare proxy", "appliance"
SMALL_BYTES = 300
RATE_TARGET, RATE_SHARE_TARGET = 8000.0, 0.7
OVERLOAD_TARGET = 1.2
QUEUE_TARGET_MS, QUEUE_GROWTH_TARGET = 15.0, 11.0
QUEUE_SMALL, QUEUE_LARGE = 10_000, 100_000
WORKERS = 256
# A node that takes 5 to 15 ms for a simulation, at 8 workers, serves 800 requests a second: far below what the load
# balancer relays, so that the queue is what is measured.
SERVICE_MS = ("5", "15")
OVERLOAD_WORKERS, OVERLOAD_CONNECTIONS, FAST_CONNECTIONS = 8, 64, 2
NODES = 3
NO_HEADERS: Mapping[str, str] = {}
FAST_TRACK: Mapping[str, str] = {"X-Fast-Track": "true"}


class Settings(msgspec.Struct, frozen=True):
    """The size of a run; ``seconds`` is that of one case through one way."""

    connections: tuple[int, ...] = (1, 32, 256)
    sizes: tuple[int, ...] = (SMALL_BYTES, 200_000)
    seconds: float = 3.0
    rounds: int = 3
    overload_seconds: float = 10.0
    own_heads: bool = False


QUICK = Settings(connections=(1, 32), seconds=0.4, rounds=1, overload_seconds=1.0)


class Case(msgspec.Struct, frozen=True):
    """One way at one number of connections and size of body; the best of the rounds by requests a second."""

    way: str
    connections: int
    size: int
    requests_per_s: float
    cpu_us: float  # of the process that is measured, each request
    latency_ms: Summary
    errors: int


class Overload(msgspec.Struct, frozen=True):
    """Fast-track requests alone and under a flood of low ones, in ms."""

    reserve: int
    alone_ms: Summary
    loaded_ms: Summary
    low_per_s: float

    @property
    def ratio(self) -> float:
        return self.loaded_ms.p99 / self.alone_ms.p99 if self.alone_ms.p99 else 0.0


class Queue(msgspec.Struct, frozen=True):
    """Push and pop of so many tasks, the best of several, in ms."""

    small_ms: float
    large_ms: float

    @property
    def growth(self) -> float:
        return self.large_ms / self.small_ms


class Result(msgspec.Struct, frozen=True):
    """The whole run, as the JSON file has it."""

    machine: Machine
    settings: Settings
    cases: list[Case]
    overload: list[Overload]
    queue: Queue
    checks: list[Check]


def measure_queue(repeats: int = 15) -> Queue:
    """All three priorities, pushed and then popped; both depths in turns, so that a busy moment meets them alike."""
    times = [(_queue_ms(QUEUE_SMALL), _queue_ms(QUEUE_LARGE)) for _ in range(repeats)]
    return Queue(*map(min, zip(*times, strict=True)))


def _queue_ms(count: int) -> float:
    queue: PriorityQueue[int] = PriorityQueue(QueueRules())
    tasks = [(number, Priority(number % 3)) for number in range(count)]
    gc.collect()
    began = time.thread_time()  # nothing is waited for: what others do in the meantime is not the queue's
    for task, priority in tasks:
        queue.push(task, priority, 0.0)
    while queue.pop(0.0) is not None:
        pass
    return (time.thread_time() - began) * 1000


def measure_cases(settings: Settings, say: Progress) -> list[Case]:
    """Every case by every way, in turns."""
    cases: list[Case] = []
    with ExitStack() as stack:
        node = stack.enter_context(Child("bench.lb_backend"))
        bare = stack.enter_context(Child("bench.lb_bare_proxy", str(node.ready["port"])))
        floor = stack.enter_context(Child("bench.lb_bare_proxy", str(node.ready["port"]), "--sockets"))
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        appliance = stack.enter_context(LoadBalancerProcess(folder, [node.ready["port"]], workers=WORKERS))
        client = stack.enter_context(Child("bench.lb_client"))
        ways = {
            DIRECT: (node.ready["port"], node.pid),
            FLOOR: (floor.ready["port"], floor.pid),
            BARE: (bare.ready["port"], bare.pid),
            APPLIANCE: (appliance.port, appliance.pid),
        }
        for size in settings.sizes:
            for connections in settings.connections:
                say(f"{connections} connections, bodies of {size:,} bytes")
                cases += _case(client, ways, connections, size, settings)
    return cases


def _case(
    client: Child, ways: dict[str, tuple[int, int]], connections: int, size: int, settings: Settings
) -> list[Case]:
    found: dict[str, Case] = {}
    for _ in range(settings.rounds):
        for way, (port, pid) in ways.items():
            case = _one(client, way, port, pid, connections, size, settings.seconds, settings.own_heads)
            if way not in found or case.requests_per_s > found[way].requests_per_s:
                found[way] = case
    return [found[way] for way in ways]


def _one(
    client: Child, way: str, port: int, pid: int, connections: int, size: int, seconds: float, own_heads: bool
) -> Case:
    _run(client, port, connections, size, 0.2, own_heads=own_heads)
    before = cpu_s(pid)
    answer = _run(client, port, connections, size, seconds, own_heads=own_heads)
    cpu = cpu_s(pid) - before
    latency = Summary.of(answer["latencies"]).scaled(1000)
    count = max(answer["count"], 1)
    errors = sum(answer["errors"].values())
    return Case(way, connections, size, count / answer["seconds"], cpu / count * 1e6, latency, errors)


def _run(
    client: Child,
    port: int,
    connections: int,
    size: int,
    seconds: float,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    own_heads: bool = False,
) -> dict[str, Any]:
    load = {"port": port, "connections": connections, "body_bytes": size, "seconds": seconds}
    return client.ask("run", **load, headers=dict(headers), own_heads=own_heads)


def measure_overload(settings: Settings, reserve: int, say: Progress) -> Overload:
    """Fast-track alone, then beside clients of low priority that keep all workers busy."""
    say(f"overload, {reserve} workers of each node for fast-track alone")
    with _overloadable(reserve) as (appliance, fast, low):
        fast_run = partial(
            _run, fast, appliance.port, FAST_CONNECTIONS, SMALL_BYTES, settings.overload_seconds, FAST_TRACK
        )
        alone = fast_run()
        low.send(
            "run",
            port=appliance.port,
            connections=OVERLOAD_CONNECTIONS,
            body_bytes=SMALL_BYTES,
            seconds=settings.overload_seconds + 1.0,
            headers={},
        )
        time.sleep(0.5)
        loaded = fast_run()
        flood = low.answer()
    alone_ms, loaded_ms = (Summary.of(each["latencies"]).scaled(1000) for each in (alone, loaded))
    return Overload(reserve, alone_ms, loaded_ms, flood["count"] / flood["seconds"])


@contextmanager
def _overloadable(reserve: int) -> Iterator[tuple[LoadBalancerProcess, Child, Child]]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(Child("bench.lb_backend", "--service-ms", *SERVICE_MS)) for _ in range(NODES)]
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ports = [node.ready["port"] for node in nodes]
        appliance = LoadBalancerProcess(folder, ports, workers=OVERLOAD_WORKERS, reserve=reserve)
        yield (
            stack.enter_context(appliance),
            stack.enter_context(Child("bench.lb_client")),
            stack.enter_context(Child("bench.lb_client")),
        )


def judge(cases: list[Case], overload: list[Overload], queue: Queue) -> list[Check]:
    """The targets: of small bodies at the number of connections that suits the appliance best."""
    checks = [_judge_rate(cases)] if cases else []
    for each in overload:
        name = "fast-track p99 under overload" + (f", {each.reserve} reserved" if each.reserve else "")
        target = f"<= {OVERLOAD_TARGET} x alone"
        checks.append(Check(name, target, f"{each.ratio:.2f} x", each.ratio <= OVERLOAD_TARGET))
    fast_enough, steady = queue.small_ms <= QUEUE_TARGET_MS, queue.growth <= QUEUE_GROWTH_TARGET
    checks.append(
        Check("10k tasks pushed and popped", f"<= {QUEUE_TARGET_MS} ms", f"{queue.small_ms:.1f} ms", fast_enough)
    )
    checks.append(Check("100k tasks", f"<= {QUEUE_GROWTH_TARGET} x that", f"{queue.growth:.1f} x", steady))
    return checks


def _judge_rate(cases: list[Case]) -> Check:
    small = [case for case in cases if case.size == SMALL_BYTES]
    best = max((case for case in small if case.way == APPLIANCE), key=lambda case: case.requests_per_s)
    bare = next(case for case in small if case.way == BARE and case.connections == best.connections)
    share = best.requests_per_s / bare.requests_per_s
    target = max(RATE_TARGET, RATE_SHARE_TARGET * bare.requests_per_s)
    measured = f"{best.requests_per_s:,.0f}/s, {share:.0%} of the bare proxy"
    return Check("requests a second, small bodies", f">= {target:,.0f}/s", measured, best.requests_per_s >= target)


def cases_table(cases: list[Case]) -> Table:
    table = Table(title="relaying", title_justify="left", box=box.SIMPLE)
    for heading in ("body", "connections", "way", "requests/s", "CPU us", "p50 ms", "p99 ms", "added p50 ms", "errors"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    direct = {(case.size, case.connections): case.latency_ms.p50 for case in cases if case.way == DIRECT}
    for case in cases:
        latency = case.latency_ms
        table.add_row(
            f"{case.size:,}",
            str(case.connections),
            case.way,
            f"{case.requests_per_s:,.0f}",
            f"{case.cpu_us:.1f}",
            f"{latency.p50:.3f}",
            f"{latency.p99:.3f}",
            f"{latency.p50 - direct[case.size, case.connections]:.3f}",
            str(case.errors),
        )
    return table


def overload_table(overload: list[Overload]) -> Table:
    table = Table(title="fast-track under a flood of low priority", title_justify="left", box=box.SIMPLE)
    for heading in ("reserved", "alone p50 ms", "p99", "under overload p50", "p99", "low requests/s"):
        table.add_column(heading, justify="right")
    for each in overload:
        alone, loaded = each.alone_ms, each.loaded_ms
        numbers = (alone.p50, alone.p99, loaded.p50, loaded.p99)
        table.add_row(str(each.reserve), *(f"{number:.2f}" for number in numbers), f"{each.low_per_s:,.0f}")
    return table


def run(settings: Settings, console: Console) -> Result:
    """Measure all parts, print them, and judge."""
    machine = describe()
    raise_file_limit()
    with progress(console) as say:
        say("queue")
        queue = measure_queue()
        cases = measure_cases(settings, say)
        overload = [measure_overload(settings, reserve, say) for reserve in (0, 1)]
    checks = judge(cases, overload, queue)
    for table in (cases_table(cases), overload_table(overload), checks_table(checks)):
        console.print(table)
    console.print(str(machine))
    return Result(machine, settings, cases, overload, queue, checks)


def parse(arguments: Sequence[str]) -> tuple[Settings, pathlib.Path | None]:
    """The settings of a run, and where its JSON goes."""
    parser = argparse.ArgumentParser(prog="python -m bench.lb", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; what is given wins over it")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--connections", type=int, nargs="+", metavar="N")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="BYTES")
    parser.add_argument("--seconds", type=float, metavar="S", help="of one case through one way")
    parser.add_argument("--rounds", type=int, metavar="N", help="of which the best counts")
    parser.add_argument("--overload-seconds", type=float, metavar="S")
    parser.add_argument("--own-heads", action="store_true", help="each request says an X-Request-ID of its own")
    given = vars(parser.parse_args(arguments))
    base, file = QUICK if given.pop("quick") else Settings(), given.pop("json")
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value}
    return msgspec.structs.replace(base, **changes), file


def main() -> int:
    settings, file = parse(sys.argv[1:])
    try:
        result = run(settings, make_console())
    except ChildError as error:
        print(f"bench.lb: {error}", file=sys.stderr)
        return 1
    if file is not None:
        write_json(file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
