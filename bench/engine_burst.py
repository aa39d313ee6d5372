"""A part of the engine bench: bursts of forkchoiceUpdated, as they come while op-node syncs.

Three builders: one answers at once, one takes 20 ms for each answer, one hangs. Requests go out at fixed times
on one connection; a time runs from when its request was due, so that a stall is in the times of all that it
held up.
"""

import time
from collections.abc import Callable

import msgspec

from bench import blocks
from bench.machine import cpu_s
from bench.output import Check, Progress
from bench.percentiles import Summary
from bench.processes import Processes, started

SLOW_S = 0.02
SETTLE_TIMEOUT_S = 5.0
P99_TARGET_MS = 10.0
RATE_TARGET = 0.99  # of the rate that was asked for


class Copies(msgspec.Struct, frozen=True):
    """How many forkchoices came to one upstream, and whether the last one was op-node's last."""

    name: str
    count: int
    has_last: bool


class Burst(msgspec.Struct, frozen=True):
    """One burst. ``cpu_ms`` is the appliance's for one request, with all its copies."""

    sent: int
    rate: float
    took_ms: Summary
    cpu_ms: float
    direct_ms: Summary  # the same requests to the execution client itself
    el: Copies
    builders: list[Copies]


def measure(rate: float, seconds: float, note: Progress) -> Burst:
    """ChildError or CallError when a process fails."""
    note(f"a burst of {rate:g} FCU a second for {seconds:g} s")
    with started(3) as processes:
        _, slow, stuck = processes.builders
        slow.ask("delay", seconds=SLOW_S)
        stuck.ask("hang")
        return _measure(processes, rate, max(1, round(rate * seconds)))


def _measure(processes: Processes, rate: float, count: int) -> Burst:
    direct, _ = _send(processes.direct.call, rate, count)
    before = _forkchoices(processes)
    used_s = cpu_s(processes.appliance.pid)
    times, took_s = _send(processes.through.call, rate, count)
    cpu_ms = (cpu_s(processes.appliance.pid) - used_s) * 1e3 / count
    el, *builders = _settled(processes, before, _head(count))
    return Burst(count, count / took_s, _in_ms(times), cpu_ms, _in_ms(direct), el, builders)


def _send(call: Callable[[bytes], object], rate: float, count: int) -> tuple[list[float], float]:
    """Seconds from when each was due until it was answered; seconds of all."""
    times = []
    began = time.perf_counter()
    for number in range(count):
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        call(blocks.forkchoice_updated(number + 1, _head(number + 1)))
        times.append(time.perf_counter() - due)
    return times, max(time.perf_counter() - began, count / rate)


def _head(number: int) -> str:
    return f"0x{number:064x}"


def _forkchoices(processes: Processes) -> list[tuple[int, str]]:
    asked = [upstream.ask("forkchoices") for upstream in (processes.el, *processes.builders)]
    return [(answer["count"], answer["head"]) for answer in asked]


def _settled(processes: Processes, before: list[tuple[int, str]], last: str) -> list[Copies]:
    """When those that answer have had the last head, or too much time has passed."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        now = _forkchoices(processes)
        if time.monotonic() > deadline or all(head == last for _, head in now[:-1]):
            break
        time.sleep(SLOW_S)
    names = ("execution client", "quick builder", "slow builder", "builder that hangs")
    found = zip(names, now, before, strict=True)
    return [Copies(name, count - earlier, head == last) for name, (count, head), (earlier, _) in found]


def _in_ms(times: list[float]) -> Summary:
    return Summary.of(times).scaled(1e3)


def judge(burst: Burst, rate: float) -> list[Check]:
    """The rate is held, the EL has each request, and those that answer have the last one."""
    slow = burst.builders[1]
    behind = [copies.name for copies in (burst.el, *burst.builders[:-1]) if not copies.has_last]
    took = burst.took_ms
    p99 = f"{took.p99:.2f} ms, directly {burst.direct_ms.p99:.2f}"
    least = rate * RATE_TARGET
    return [
        Check("burst: FCU held", f">= {least:.0f}/s", f"{burst.rate:.0f}/s", burst.rate >= least),
        Check("burst: FCU p99", f"< {P99_TARGET_MS:g} ms", p99, took.p99 < P99_TARGET_MS),
        Check("burst: the EL has each one", str(burst.sent), str(burst.el.count), burst.el.count == burst.sent),
        Check("burst: a slow builder's copies", "coalesced", f"{slow.count} of {burst.sent}", slow.count < burst.sent),
        Check("burst: without the last head", "nobody", ", ".join(behind) or "nobody", not behind),
    ]


def describe(burst: Burst) -> str:
    """One paragraph for people."""
    took, direct = burst.took_ms, burst.direct_ms
    copies = ", ".join(f"{each.name} {each.count}" for each in (burst.el, *burst.builders[:-1]))
    return (
        f"burst: {burst.sent} FCU, {burst.rate:.0f} a second: p50 {took.p50:.2f} ms, p99 {took.p99:.2f} ms, "
        f"max {took.max:.2f} ms (directly {direct.p50:.2f}, {direct.p99:.2f}, {direct.max:.2f}); "
        f"CPU {burst.cpu_ms:.2f} ms a request; came to: {copies}"
    )
