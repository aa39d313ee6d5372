"""The benches' options."""

import pathlib
from collections.abc import Callable, Sequence

import pytest

from bench import engine, fanout
from bench.fanout import Memory
from bench.percentiles import Summary
from bench.subscribers import Deliveries


def deliveries(*, latest_ms: float = 1.0, lost: int = 0) -> Deliveries:
    return Deliveries(10, Summary(10, 1.0, 1.0, latest_ms), lost, 0, 0)


def test_defaults_and_quick() -> None:
    assert fanout.parse([]) == (fanout.Settings(), None)
    assert fanout.parse(["--quick"])[0] == fanout.QUICK
    assert engine.parse([]) == (engine.Settings(), None)
    assert engine.parse(["--quick"])[0] == engine.QUICK


def test_what_is_given_wins_over_quick() -> None:
    settings, file = fanout.parse(["--quick", "--subscribers", "7", "--json", "out.json"])
    assert (settings.subscribers, settings.rounds) == (7, fanout.QUICK.rounds)
    assert file == pathlib.Path("out.json")
    assert engine.parse(["--sizes", "1", "2", "--subscribers", "0"])[0].sizes == (1, 2)


@pytest.mark.parametrize("parse", [fanout.parse, engine.parse])
def test_help_says_what_there_is(parse: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    assert "--subscribers" in capsys.readouterr().out


def test_fanout_targets() -> None:
    good = fanout.judge(deliveries(), 1.2, Memory(8000, 9000))
    assert [check.verdict for check in good] == ["met"] * 4
    bad = fanout.judge(deliveries(latest_ms=201, lost=1), 1.6, Memory(31_000, 0))
    assert [check.verdict for check in bad] == ["missed"] * 4


def test_engine_targets_are_about_small_payloads() -> None:
    direct, through = Summary(9, 1.0, 2.0, 3.0), Summary(9, 1.5, 8.0, 9.0)
    small = engine.Latency(engine.ALONE, engine.JUDGED_BYTES, engine.FCU, direct, through)
    large = engine.Latency(engine.ALONE, 3_145_728, engine.FCU, direct, through)
    checks = engine.judge([small, large], deliveries(latest_ms=300))
    assert [(check.measured, check.met) for check in checks] == [
        ("0.50 ms", True),
        ("6.00 ms", False),
        ("300 ms", False),
        ("0", True),
    ]
