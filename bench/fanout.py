"""`python -m bench.fanout`: what fan-out costs against the least that it can cost, and what a storm of returns does.

Three kinds of processes: the appliance, a floor (a plain send loop), and receivers that are subscribed to
both. fanout_steady.py has the first part, fanout_storm.py the second.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench import fanout_steady, fanout_storm
from bench.caller import CallError
from bench.children import ChildError
from bench.fanout_settings import PARTS, QUICK, STEADY, STORM, Settings
from bench.fanout_steady import APPLIANCE, FLOOR, Steady
from bench.fanout_storm import Returned, Storms
from bench.machine import Machine, describe, raise_file_limit
from bench.messages import ENCODINGS
from bench.output import Check, checks_table, make_console, progress, write_json

COST_TARGET = 1.3
DELAY_TARGET = 1.5
MEMORY_TARGET_BYTES = 30_000
RETURN_TARGET_S = 6.0
ENGINE_TARGET_MS = 5.0


class Result(msgspec.Struct, frozen=True):
    """The whole run, as the JSON file has it; a part that was not wanted is None."""

    machine: Machine
    settings: Settings
    steady: Steady | None
    storm: Storms | None
    checks: list[Check]


def judge_steady(steady: Steady) -> list[Check]:
    """The targets of the first part."""
    faults, memory = steady.appliance.deliveries.faults, steady.memory.connected
    return [
        Check(
            "CPU per delivery",
            f"<= {COST_TARGET} x the floor",
            f"{steady.cost_ratio:.2f} x",
            steady.cost_ratio <= COST_TARGET,
        ),
        Check(
            "p99 of delivery",
            f"<= {DELAY_TARGET} x a pass of the floor",
            f"{steady.delay_ratio:.2f} x",
            steady.delay_ratio <= DELAY_TARGET,
        ),
        Check("lost, duplicated, closed", "0", str(faults), faults == 0),
        Check(
            "memory a subscriber",
            f"<= {MEMORY_TARGET_BYTES / 1000:.0f} KB",
            f"{memory / 1000:.1f} KB",
            memory <= MEMORY_TARGET_BYTES,
        ),
    ]


def judge_storm(storm: Storms) -> list[Check]:
    """The targets of the second part."""
    slowest_s, faults = storm.slowest_s, storm.quiet_deliveries.faults
    engines = {"nobody reconnects": storm.quiet, "some do": storm.partial, "all do": storm.whole}
    return [
        Check(
            "all back, with resume and caught up",
            f"<= {RETURN_TARGET_S:g} s",
            f"{slowest_s:.1f} s",
            slowest_s <= RETURN_TARGET_S,
        ),
        Check("lost, duplicated, closed in the storms", "0", str(faults), faults == 0),
        *(
            Check(
                f"Engine API, added p99, {when}",
                f"<= {ENGINE_TARGET_MS:g} ms",
                f"{engine.added_p99_ms:.1f} ms",
                engine.added_p99_ms <= ENGINE_TARGET_MS,
            )
            for when, engine in engines.items()
        ),
    ]


def run(settings: Settings, console: Console) -> Result:
    """One whole run; ChildError or CallError when a process fails."""
    machine = describe()
    steady, storm = None, None
    checks: list[Check] = []
    with progress(console) as note:
        if STEADY in settings.parts:
            steady = fanout_steady.measure(settings, note)
            checks += judge_steady(steady)
        if STORM in settings.parts:
            storm = fanout_storm.measure(settings, note)
            checks += judge_storm(storm)
    return Result(machine, settings, steady, storm, checks)


def steady_table(steady: Steady, settings: Settings) -> Table:
    title = (
        f"fan-out: {settings.subscribers} subscribers ({settings.stuck} stuck), {settings.size / 1024:.0f} KiB "
        f"messages, {settings.rate:g} a second, {settings.rounds} rounds of {settings.seconds:g} s"
    )
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("", "CPU a delivery", "p50", "p99", "max", "deliveries", "lost", "twice", "closed"):
        shown.add_column(heading, justify="right")
    for name, side in ((FLOOR, steady.floor), (APPLIANCE, steady.appliance)):
        got, delay = side.deliveries, side.deliveries.delay_ms
        times = [f"{value:.1f} ms" for value in (delay.p50, delay.p99, delay.max)]
        counts = [str(value) for value in (got.count, got.lost, got.duplicated, got.closed)]
        shown.add_row(name, f"{side.cpu_us_per_delivery:.2f} us", *times, *counts)
    return shown


def storm_table(storm: Storms) -> Table:
    shown = Table(title="storms of returns with resume", title_justify="left", box=box.SIMPLE)
    for heading in ("", "back", "answered", "caught up", "CPU", "Engine API direct p99", "added p99", "requests"):
        shown.add_column(heading, justify="right")
    for name, returned, engine in (
        ("nobody reconnects", [], storm.quiet),
        ("some do", storm.partial_returned, storm.partial),
        ("all do", storm.whole_returned, storm.whole),
    ):
        times = [_times(returned, key) for key in ("answered_s", "caught_up_s", "cpu_s")]
        engines = [f"{value:.2f} ms" for value in (engine.direct_ms.p99, engine.added_p99_ms)]
        count = str(returned[0].subscribers) if returned else ""
        shown.add_row(name, count, *times, *engines, str(engine.through_ms.count))
    return shown


def _times(returned: Sequence[Returned], key: str) -> str:
    return ", ".join(f"{getattr(one, key):.2f}" for one in returned) + (" s" if returned else "")


def show(result: Result, console: Console) -> None:
    console.print(f"machine: {result.machine}")
    if result.steady is not None:
        steady = result.steady
        console.print(steady_table(steady, result.settings))
        console.print(
            f"a pass of the floor: {steady.pass_ms.p50:.1f} ms (p99 {steady.pass_ms.p99:.1f} ms); "
            f"{steady.handshakes_per_s:.0f} handshakes a second; memory a subscriber: "
            f"{steady.memory.connected / 1000:.1f} KB connected, "
            f"{steady.memory.after_load / 1000:.1f} KB after the load (the log's own with it)"
        )
    if result.storm is not None:
        storm = result.storm
        console.print(storm_table(storm))
        console.print(
            f"p99 of delivery: {storm.quiet_deliveries.delay_ms.p99:.0f} ms when nobody reconnects, "
            f"{storm.stayers.delay_ms.p99:.0f} ms to those who stay while some do; "
            f"{storm.late} messages came too late for their block, and are in no log"
        )
    console.print(checks_table(result.checks))


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, pathlib.Path | None]:
    """Settings from the command line: `--quick` changes the defaults, what is given wins."""
    parser = argparse.ArgumentParser(prog="python -m bench.fanout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run of less than 20 s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="of the bench, default both")
    parser.add_argument("--subscribers", type=int, help=f"default {Settings().subscribers}")
    parser.add_argument("--stuck", type=int, help=f"of them, who read nothing, default {Settings().stuck}")
    parser.add_argument("--encodings", nargs="+", choices=ENCODINGS, help="that subscribers ask for, default all")
    parser.add_argument("--size", type=int, help=f"bytes of a message, default {Settings().size}")
    parser.add_argument("--rate", type=float, help=f"messages a second, default {Settings().rate:g}")
    parser.add_argument("--seconds", type=float, help=f"of a round, default {Settings().seconds:g}")
    parser.add_argument("--rounds", type=int, help=f"default {Settings().rounds}")
    parser.add_argument("--receivers", type=int, help=f"client processes, default {Settings().receivers}")
    parser.add_argument("--movers", type=int, help=f"who reconnect while others stay, default {Settings().movers}")
    parser.add_argument("--storms", type=int, help=f"of each kind, default {Settings().storms}")
    parser.add_argument("--quiet-slots", type=int, help=f"blocks without a storm, default {Settings().quiet_slots}")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    given = vars(parser.parse_args(arguments))
    defaults = QUICK if given.pop("quick") else Settings()
    file: pathlib.Path | None = given.pop("json")
    changes = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
    return msgspec.structs.replace(defaults, **changes), file


def main() -> int:
    settings, file = parse()
    raise_file_limit()
    console = make_console()
    try:
        result = run(settings, console)
    except (ChildError, CallError) as error:
        print(f"bench.fanout: {error}", file=sys.stderr)
        return 1
    show(result, console)
    if file is not None:
        write_json(file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
