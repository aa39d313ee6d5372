import io

import pytest
import trio
from rich.console import Console

from appliance.devnet.node import SlotReport
from appliance.devnet.screen import REFRESH_S, ROWS, Hint, Screen, Situation, plain_line

BLOCK = SlotReport(7, "0x" + "ab" * 32, "builder-1", 31, 650_000, 0.0031)
HINTS = [Hint("follow the stream", "appliance tail --url ws://127.0.0.1:1112/ws"), Hint("kill it", "kill -9 42")]
Clock = trio.testing.MockClock
ORDINARY = {"TERM": "xterm"}  # a dumb terminal, as the tests themselves may run on, is not redrawn


def screen_on(*, terminal: bool, width: int = 140) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None, _environ=ORDINARY)
    screen = Screen(
        "appliance dev",
        HINTS,
        situation=lambda: Situation(subscribers=3, flashblocks=42, health=206, faults=("builder-down:builder-1",)),
        flashblocks_of=lambda _hash: 10,
        console=console,
    )
    return screen, out


def test_plain_line_of_a_block_and_of_a_missed_slot() -> None:
    assert plain_line(BLOCK, 10, 3) == (
        f"block 7 0x{'ab' * 32} source=builder-1 transactions=31 gas=650000 get_payload_ms=3.1"
        " flashblocks=10 subscribers=3"
    )
    assert "flashblocks=- " in plain_line(BLOCK, None, 0)
    assert plain_line(SlotReport(8, error="el is down"), None, 0) == "block 8 missed: el is down"


async def test_without_a_terminal_each_line_is_whole_and_plain(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    screen, out = screen_on(terminal=False, width=40)
    await nursery.start(screen.run)
    screen.on_slot(BLOCK)
    screen.on_slot(SlotReport(8, error="newPayload answered [INVALID]"))
    assert out.getvalue().splitlines() == [
        "appliance dev",
        "  follow the stream: appliance tail --url ws://127.0.0.1:1112/ws",
        "  kill it: kill -9 42",
        plain_line(BLOCK, 10, 3),
        "block 8 missed: newPayload answered [INVALID]",
    ]
    nursery.cancel_scope.cancel()


async def test_terminal_shows_blocks_situation_and_hints(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    screen, out = screen_on(terminal=True)
    assert screen.is_live
    await nursery.start(screen.run)
    screen.on_slot(BLOCK)
    screen.on_slot(SlotReport(8, error="el is down"))
    await trio.sleep(REFRESH_S * 2)
    shown = out.getvalue()
    for text in ("0xabababab", "builder-1", "650,000", "3.1 ms", "el is down", "missed", "health 206"):
        assert text in shown
    assert "flashblocks 42   subscribers 3   faults builder-down:builder-1" in shown
    for hint in HINTS:
        assert hint.command in shown
    nursery.cancel_scope.cancel()


async def test_only_the_last_blocks_stay_on_the_screen() -> None:
    screen, _out = screen_on(terminal=True)
    for number in range(ROWS + 5):
        screen.on_slot(SlotReport(number, "0x" + "cd" * 32))
    assert [row.report.number for row in screen._rows] == list(range(5, ROWS + 5))


def test_nothing_known_yet() -> None:
    out = io.StringIO()
    screen = Screen("appliance dev", [], console=Console(file=out, force_terminal=False))
    screen.on_slot(SlotReport(1, "0x" + "ab" * 32))
    assert "subscribers=0" in out.getvalue()
    assert "flashblocks=-" in out.getvalue()


@pytest.mark.parametrize("hints", [[], HINTS])
def test_screen_can_always_be_drawn(hints: list[Hint]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60)
    console.print(Screen("appliance dev", hints, console=console)._render())
    assert "appliance dev" in out.getvalue()
