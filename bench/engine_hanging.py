"""A part of the engine bench: what a builder that hangs costs, among 1, 3 and 8.

The first configured builder, whose block would be preferred, takes every request and answers none. For some
slots it is waited for, at most until the deadline; then it is ill, and no longer.
"""

import time
from collections.abc import Sequence

import msgspec
from rich import box
from rich.table import Table

from bench import blocks
from bench.machine import cpu_s
from bench.output import Check, Progress
from bench.percentiles import Summary
from bench.processes import Processes, started

DEADLINE_MS = 300
SIZE = 10_240
FORKCHOICES = 10  # without attributes, in each slot
BUILD_S = 0.005  # between the order to build and getPayload
WARM_UP = 5
BEYOND_TARGET_MS, FCU_P50_TARGET_MS, FCU_P99_TARGET_MS = 10.0, 0.2, 2.0
_FIRST_TIMESTAMP = 0x66000000


class Requests(msgspec.Struct, frozen=True):
    """One phase, in ms. ``cpu_ms`` is the appliance's for a slot: an order, a getPayload, ``FORKCHOICES`` FCU."""

    fcu_ms: Summary
    build_ms: Summary
    get_payload_ms: Summary
    cpu_ms: float


class Hanging(msgspec.Struct, frozen=True):
    """So many builders, before and while the first one hangs."""

    builders: int
    well: Requests
    hanging: Requests
    waited: int  # slots of the second phase in which getPayload took more than half of the deadline

    @property
    def beyond_ms(self) -> float:
        """What the slowest getPayload took beyond the deadline and the median of an undisturbed one."""
        return max(0.0, self.hanging.get_payload_ms.max - DEADLINE_MS - self.well.get_payload_ms.p50)


def measure(counts: Sequence[int], slots: int, note: Progress) -> list[Hanging]:
    """One appliance for each of ``counts``; ChildError or CallError when a process fails."""
    found = []
    for count in counts:
        note(f"{count} builders, then the first one hangs: 2 x {slots} slots")
        with started(count, builder_deadline_ms=DEADLINE_MS) as processes:
            found.append(_measure(processes, slots))
    return found


def _measure(processes: Processes, slots: int) -> Hanging:
    processes.resize(SIZE)
    driver = Driver(processes)
    driver.run(WARM_UP)
    well, _ = driver.run(slots)
    processes.builders[0].ask("hang")
    hanging, times_s = driver.run(slots)
    waited = sum(took_s * 1e3 > DEADLINE_MS / 2 for took_s in times_s)
    return Hanging(len(processes.builders), well, hanging, waited)


class Driver:
    """Slots one after the other, through the appliance."""

    def __init__(self, processes: Processes) -> None:
        self._call = processes.through.call
        self._pid = processes.appliance.pid
        self._number = 0

    def run(self, slots: int) -> tuple[Requests, list[float]]:
        """What they took; the times of getPayload in s, in order."""
        taken: tuple[list[float], list[float], list[float]] = ([], [], [])
        used_s = cpu_s(self._pid)
        for _ in range(slots):
            self._slot(*taken)
        cpu_ms = (cpu_s(self._pid) - used_s) * 1e3 / slots
        fcu, build, get_payload = (Summary.of(each).scaled(1e3) for each in taken)
        return Requests(fcu, build, get_payload, cpu_ms), taken[2]

    def _slot(self, fcu: list[float], build: list[float], get_payload: list[float]) -> None:
        number = self._next()
        answer, took_s = self._call(blocks.build(number, _FIRST_TIMESTAMP + number, l2_only=False))
        build.append(took_s)
        time.sleep(BUILD_S)
        get_payload.append(self._call(blocks.get_payload(self._next(), blocks.payload_id(answer)))[1])
        fcu.extend(self._call(blocks.forkchoice_updated(self._next()))[1] for _ in range(FORKCHOICES))

    def _next(self) -> int:
        self._number += 1
        return self._number


def judge(found: Sequence[Hanging]) -> list[Check]:
    """Nothing beyond the deadline, and nothing to FCU."""
    return [check for one in found for check in _judge(one)]


def _judge(one: Hanging) -> list[Check]:
    begin = f"one of {one.builders} hangs"
    calls = (("FCU", one.well.fcu_ms, one.hanging.fcu_ms), ("order", one.well.build_ms, one.hanging.build_ms))
    checks = [_at_most(f"{begin}: getPayload beyond the deadline", BEYOND_TARGET_MS, one.beyond_ms)]
    for name, well, hanging in calls:
        checks.append(_at_most(f"{begin}: {name}, added p50", FCU_P50_TARGET_MS, hanging.p50 - well.p50))
        checks.append(_at_most(f"{begin}: {name}, added p99", FCU_P99_TARGET_MS, hanging.p99 - well.p99))
    return checks


def _at_most(name: str, target_ms: float, measured_ms: float) -> Check:
    return Check(name, f"<= {target_ms:g} ms", f"{measured_ms:.2f} ms", measured_ms <= target_ms)


def table(found: Sequence[Hanging]) -> Table:
    title = f"the first builder hangs, in ms (deadline {DEADLINE_MS} ms)"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    shown.add_column("")
    for heading in ("FCU p50", "p99", "order p50", "p99", "getPayload p50", "p99", "max", "waited", "CPU a slot"):
        shown.add_column(heading, justify="right")
    for one in found:
        _add_row(shown, f"{one.builders}, all well", one.well, "")
        _add_row(shown, f"{one.builders}, one hangs", one.hanging, f"{one.waited} of {one.hanging.build_ms.count}")
    return shown


def _add_row(shown: Table, name: str, one: Requests, waited: str) -> None:
    calls = [(one.fcu_ms.p50, one.fcu_ms.p99), (one.build_ms.p50, one.build_ms.p99)]
    payload = one.get_payload_ms
    values = [value for pair in calls for value in pair] + [payload.p50, payload.p99, payload.max]
    shown.add_row(name, *(f"{value:.2f}" for value in values), waited, f"{one.cpu_ms:.2f}")
