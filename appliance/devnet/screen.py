"""What `appliance dev` shows: the last blocks, what the stream does, and what to try next.

A terminal gets a live screen; anything else (a pipe, a log file, CI) gets one plain line per block.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from appliance.devnet.node import SlotReport

ROWS: Final = 12
REFRESH_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Hint:
    """One thing to try: what it shows, and the exact line to type."""

    text: str
    command: str


@dataclass(frozen=True, slots=True)
class Situation:
    """The appliance at this moment. `health` is the engine's HTTP status; `faults` are those switched on.

    `hosts` has a line for each, where there are several.
    """

    subscribers: int = 0
    flashblocks: int = 0
    health: int | None = None
    faults: Sequence[str] = field(default=())
    hosts: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class _Row:
    report: SlotReport
    flashblocks: int | None
    subscribers: int


class Screen:
    """Takes slot reports by `on_slot`, shows them in `run`.

    `situation` is asked at each refresh, `flashblocks_of` once for each block: how many flashblocks it was
    published in, None when it was not.
    """

    def __init__(
        self,
        title: str,
        hints: Sequence[Hint],
        *,
        situation: Callable[[], Situation] = Situation,
        flashblocks_of: Callable[[str], int | None] = lambda _hash: None,
        console: Console | None = None,
    ) -> None:
        self._title = title
        self._hints = tuple(hints)
        self._situation = situation
        self._flashblocks_of = flashblocks_of
        self._console = console or Console()
        self._rows: deque[_Row] = deque(maxlen=ROWS)

    @property
    def is_live(self) -> bool:
        """Whether this is a terminal that can be redrawn."""
        return self._console.is_terminal

    def on_slot(self, report: SlotReport) -> None:
        """Show one more slot; on a terminal with the next refresh."""
        flashblocks = self._flashblocks_of(report.block_hash) if report.block_hash else None
        row = _Row(report, flashblocks, self._situation().subscribers)
        self._rows.append(row)
        if not self.is_live:
            self._print(plain_line(row.report, row.flashblocks, row.subscribers))

    def say(self, line: str) -> None:
        """Show one more line; on a terminal it stays above what is redrawn."""
        self._print(line)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show until cancelled."""
        if not self.is_live:
            self._print_opening()
            task_status.started()
            await trio.sleep_forever()
        with Live(self._render(), console=self._console, auto_refresh=False) as live:
            task_status.started()
            while True:
                live.update(self._render(), refresh=True)
                await trio.sleep(REFRESH_S)

    def _print_opening(self) -> None:
        self._print(self._title)
        for hint in self._hints:
            self._print(f"  {hint.text}: {hint.command}")

    def _print(self, line: str) -> None:
        """Whole lines: neither wrapped nor coloured, for who reads them by machine."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        situation = self._situation()
        parts: list[RenderableType] = [Text(self._title, style="bold"), _summary(situation), self._blocks()]
        return Group(*parts, Text(), self._hint_lines())

    def _blocks(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, justify in (("block", "right"), ("hash", "left"), ("source", "left")):
            table.add_column(name, justify="right" if justify == "right" else "left")
        for name in ("transactions", "gas", "getPayload", "flashblocks", "subscribers"):
            table.add_column(name, justify="right")
        for row in self._rows:
            table.add_row(*_cells(row))
        return table

    def _hint_lines(self) -> Text:
        lines = Text("Try\n", style="bold")
        for hint in self._hints:
            lines.append(f"  {hint.text}: ", style="dim")
            lines.append(f"{hint.command}\n", style="cyan")
        return lines


def plain_line(report: SlotReport, flashblocks: int | None, subscribers: int) -> str:
    """One slot as a line of text."""
    if report.error is not None:
        return f"block {report.number or '?'} missed: {report.error}"
    return (
        f"block {report.number} {report.block_hash} source={report.source} transactions={report.transactions}"
        f" gas={report.gas_used} get_payload_ms={report.latency_s * 1000:.1f}"
        f" flashblocks={'-' if flashblocks is None else flashblocks} subscribers={subscribers}"
    )


def _cells(row: _Row) -> list[Text]:
    report = row.report
    if report.error is not None:
        return [Text(str(report.number)), Text(report.error[:60], style="red"), Text("missed", style="red")]
    cells = [
        str(report.number),
        f"{(report.block_hash or '')[:12]}…",
        report.source,
        str(report.transactions),
        f"{report.gas_used:,}",
        f"{report.latency_s * 1000:.1f} ms",
        "-" if row.flashblocks is None else str(row.flashblocks),
        str(row.subscribers),
    ]
    styles = {2: "yellow" if report.source == "el" else "green"}
    return [Text(cell, style=styles.get(index, "")) for index, cell in enumerate(cells)]


def _summary(situation: Situation) -> Text:
    healthy = situation.health in (None, 200)
    text = Text()
    text.append(f"health {situation.health or '-'}", style="green" if healthy else "red")
    text.append(f"   flashblocks {situation.flashblocks}   subscribers {situation.subscribers}")
    text.append(f"   faults {', '.join(situation.faults) or 'none'}\n")
    for line in situation.hosts:
        text.append(f"{line}\n")
    return text
