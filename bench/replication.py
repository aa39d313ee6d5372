"""How long a flashblock takes to be on a majority of three hosts, against a bare SQLite commit in the same run.

Three processes on 127.0.0.1 (`bench.replication_host`), each with its log in a folder of its own on one disk.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from bench.children import Child, ChildError
from bench.machine import Machine, describe
from bench.output import Check, Progress, checks_table, make_console, progress, write_json
from bench.percentiles import Summary
from tests.support.ports import lasting_port

TARGET_RATIO = 5.0
TARGET_STALLED_RATIO = 3.0
NAMES = ("a", "b", "c")
READY_S = 60.0


class Settings(msgspec.Struct, frozen=True):
    """What is measured; sizes in bytes, ``interval_s`` between two flashblocks.

    ``warm_up``: so many of each kind come first, until both WALs have their size and are written from the start again:
    a file that grows costs more to sync.
    """

    rounds: int = 5
    count: int = 100
    size: int = 8192
    interval_s: float = 0.02
    away: int = 18_000
    warm_up: int = 400


QUICK = Settings(rounds=2, count=40, away=2_000)


class Measured(msgspec.Struct, frozen=True):
    """Times in ms."""

    bare: Summary
    on_disk: Summary
    committed: Summary

    @property
    def ratio(self) -> float:
        """How many bare commits a commit on a majority takes, at the median."""
        return self.committed.p50 / self.bare.p50


class CatchUp(msgspec.Struct, frozen=True):
    """A host that was away."""

    entries: int
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """Everything that a run found."""

    machine: Machine
    settings: Settings
    all_up: Measured
    one_down: Measured
    nobody: Summary
    catch_up: CatchUp
    checks: list[Check]


class Hosts:
    """The three processes; one may be ended and started again."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._ports = {name: lasting_port() for name in NAMES}
        self.children: dict[str, Child] = {}

    def start(self, name: str) -> None:
        """Start one; it is ready when this returns."""
        peers = [f"--peer={other}=ws://127.0.0.1:{port}" for other, port in self._ports.items() if other != name]
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        arguments = ["--name", name, "--folder", str(folder), "--port", str(self._ports[name]), *peers]
        self.children[name] = Child("bench.replication_host", *arguments)

    def stop(self, name: str) -> None:
        """End one."""
        self.children.pop(name).close()

    def position(self, name: str) -> int:
        """What it shows."""
        return int(self.children[name].ask("status")["head"])

    def append(
        self, settings: Settings, count: int, *, wait_s: float, interval_s: float | None = None, bare: bool = False
    ) -> dict[str, list[float]]:
        """Flashblocks of the first host: seconds of each kind."""
        return self.children["a"].ask(
            "append",
            600.0,
            count=count,
            size=settings.size,
            interval_s=settings.interval_s if interval_s is None else interval_s,
            wait_s=wait_s,
            bare=bare,
        )

    def wait_together(self, timeout_s: float = READY_S) -> float:
        """Until all that run show the same; how many seconds that took."""
        began = time.monotonic()
        while len({self.position(name) for name in self.children}) > 1:
            if time.monotonic() - began > timeout_s:
                raise ChildError(f"the hosts do not come together within {timeout_s:.0f} s")
            time.sleep(0.02)
        return time.monotonic() - began

    def __enter__(self) -> "Hosts":
        for name in NAMES:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.children):
            self.stop(name)


def run(settings: Settings, console: Console) -> Result:
    """The whole bench."""
    machine = describe()
    with folder() as where, Hosts(where) as hosts, progress(console) as step:
        hosts.append(settings, settings.warm_up, interval_s=0.0, wait_s=10.0, bare=True)
        hosts.wait_together()
        all_up = _measure(hosts, settings, "all three hosts", step)
        hosts.stop("c")
        one_down = _measure(hosts, settings, "one of three down", step)
        catch_up = _catch_up(hosts, settings, step)
        nobody = _nobody(hosts, settings, step)
    return Result(machine, settings, all_up, one_down, nobody, catch_up, judge(all_up, one_down, nobody))


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """On the disk of the working directory: a file system in memory would not sync."""
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd(), prefix=".bench-") as made:
        yield pathlib.Path(made)


def _measure(hosts: Hosts, settings: Settings, title: str, step: Progress) -> Measured:
    """Both kinds alternate, one by one, so that both see the same disk and the same neighbours."""
    times: dict[str, list[float]] = {}
    for number in range(1, settings.rounds + 1):
        step(f"{title}: round {number} of {settings.rounds}")
        for kind, found in hosts.append(settings, settings.count, wait_s=10.0, bare=True).items():
            times.setdefault(kind, []).extend(found)
    return Measured(*(Summary.of(times[kind]).scaled(1000) for kind in ("bare", "on_disk", "committed")))


def _catch_up(hosts: Hosts, settings: Settings, step: Progress) -> CatchUp:
    step(f"{settings.away} flashblocks while one is away, then it comes back")
    hosts.append(settings, settings.away, interval_s=0.0, wait_s=0.0)
    hosts.wait_together(60.0)
    before = time.monotonic()
    hosts.start("c")
    hosts.wait_together(120.0)
    return CatchUp(settings.away, time.monotonic() - before)


def _nobody(hosts: Hosts, settings: Settings, step: Progress) -> Summary:
    step("nobody acknowledges")
    hosts.stop("b")
    hosts.stop("c")
    return Summary.of(hosts.append(settings, settings.count, wait_s=0.0)["on_disk"]).scaled(1000)


def judge(all_up: Measured, one_down: Measured, nobody: Summary) -> list[Check]:
    """Against the targets."""
    ratios = [(name, measured.ratio) for name, measured in (("all up", all_up), ("one down", one_down))]
    checks = [
        Check(f"commit on 2 of 3, {name}, against a bare commit", "<= 5 x", f"{ratio:.1f} x", ratio <= TARGET_RATIO)
        for name, ratio in ratios
    ]
    held = nobody.p50 / all_up.on_disk.p50
    text = "append while nobody acknowledges, against while all do"
    return [*checks, Check(text, "<= 3 x", f"{held:.1f} x", held <= TARGET_STALLED_RATIO)]


def table(result: Result) -> Table:
    """For people."""
    settings = result.settings
    title = f"replication: {settings.rounds} rounds of {settings.count} flashblocks of {settings.size / 1024:.0f} KiB"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("ms", "p50", "p99", "max"):
        shown.add_column(heading, justify="right")
    for name, measured in (("all up", result.all_up), ("one of three down", result.one_down)):
        for what, times in (
            ("bare commit", measured.bare),
            ("on this host's disk", measured.on_disk),
            ("committed by 2 of 3", measured.committed),
        ):
            shown.add_row(f"{name}: {what}", *(f"{value:.2f}" for value in (times.p50, times.p99, times.max)))
    held = result.nobody
    shown.add_row("nobody acknowledges: on disk", *(f"{value:.2f}" for value in (held.p50, held.p99, held.max)))
    return shown


def show(result: Result, console: Console) -> None:
    """The tables and the verdict."""
    console.print(f"machine: {result.machine}")
    console.print(table(result))
    back = result.catch_up
    rate = back.entries / back.seconds
    console.print(f"away for {back.entries} flashblocks: back in {back.seconds:.1f} s, start included ({rate:.0f}/s)")
    console.print(checks_table(result.checks))


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, pathlib.Path | None]:
    """Settings from the command line: `--quick` changes the defaults, what is given wins."""
    parser = argparse.ArgumentParser(prog="python -m bench.replication", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run of some seconds")
    parser.add_argument("--rounds", type=int, help=f"default {Settings().rounds}")
    parser.add_argument("--count", type=int, help=f"flashblocks of a round, default {Settings().count}")
    parser.add_argument("--size", type=int, help=f"bytes of a flashblock, default {Settings().size}")
    parser.add_argument("--interval-s", type=float, help=f"between two of them, default {Settings().interval_s:g}")
    parser.add_argument("--away", type=int, help=f"flashblocks that a host misses, default {Settings().away}")
    parser.add_argument("--warm-up", type=int, help=f"flashblocks before, default {Settings().warm_up}")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there too")
    given = vars(parser.parse_args(arguments))
    defaults = QUICK if given.pop("quick") else Settings()
    file: pathlib.Path | None = given.pop("json")
    changes = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(defaults, **changes), file


def main() -> int:
    settings, file = parse()
    console = make_console()
    try:
        result = run(settings, console)
    except ChildError as error:
        print(f"bench.replication: {error}", file=sys.stderr)
        return 1
    show(result, console)
    if file is not None:
        write_json(file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
