"""How a bench shows what it found: a table for people, a JSON file for machines, progress while it works."""

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 130  # where output goes to a file, wide enough that no column is cut


def make_console() -> Console:
    """For the terminal as it is, or for a file."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


class Check(msgspec.Struct, frozen=True):
    """One target and what was measured against it; ``met`` is None where this run does not judge it."""

    name: str
    target: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "not judged"}[self.met]


def checks_table(checks: list[Check]) -> Table:
    table = Table(title="targets", title_justify="left", box=box.SIMPLE)
    for heading in ("what", "target", "measured", "verdict"):
        table.add_column(heading)
    for check in checks:
        table.add_row(check.name, check.target, check.measured, check.verdict)
    return table


def write_json(path: pathlib.Path, result: msgspec.Struct) -> None:
    """The whole result, indented; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


Progress = Callable[[str], None]
"""Says which step begins."""


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A line that moves on a terminal, and a plain line a step elsewhere."""
    if not console.is_terminal:
        yield console.print
        return
    with console.status("starting") as status:
        yield status.update
