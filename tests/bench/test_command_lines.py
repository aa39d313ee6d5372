"""The benches' options."""

import pathlib
from collections.abc import Callable, Sequence

import pytest

from bench import engine, engine_burst, engine_hanging, fanout, replication
from bench.fanout_settings import QUICK, STEADY, Settings
from bench.fanout_steady import Memory, Side, Steady
from bench.fanout_storm import Engine, Returned, Storms
from bench.percentiles import Summary
from bench.subscribers import Deliveries


def deliveries(*, latest_ms: float = 1.0, lost: int = 0) -> Deliveries:
    return Deliveries(10, Summary(10, 1.0, 1.0, latest_ms), lost, 0, 0)


def test_defaults_and_quick() -> None:
    assert fanout.parse([]) == (Settings(), None)
    assert fanout.parse(["--quick"])[0] == QUICK
    assert engine.parse([]) == (engine.Settings(), None)
    assert engine.parse(["--quick"])[0] == engine.QUICK
    assert replication.parse([]) == (replication.Settings(), None)
    assert replication.parse(["--quick", "--away", "9"])[0].away == 9


def test_what_is_given_wins_over_quick() -> None:
    settings, file = fanout.parse(["--quick", "--subscribers", "7", "--json", "out.json"])
    assert (settings.subscribers, settings.rounds) == (7, QUICK.rounds)
    assert file == pathlib.Path("out.json")
    assert engine.parse(["--sizes", "1", "2", "--subscribers", "0"])[0].sizes == (1, 2)


@pytest.mark.parametrize("parse", [fanout.parse, engine.parse])
def test_help_says_what_there_is(parse: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    assert "--subscribers" in capsys.readouterr().out


def test_what_is_given_several_times_is_a_list() -> None:
    settings = fanout.parse(["--parts", "steady", "--encodings", "text", "deflate"])[0]
    assert (settings.parts, settings.encodings) == ((STEADY,), ("text", "deflate"))


def test_fanout_targets() -> None:
    passes = Summary(9, 100.0, 101.0, 102.0)

    def steady(p99: float, ratio: float, memory: float, lost: int) -> Steady:
        side = Side(10.0, Deliveries(10, Summary(10, 1.0, p99, p99), lost, 0, 0))
        return Steady(side, side, passes, ratio, 1000.0, Memory(memory, memory))

    assert [check.met for check in fanout.judge_steady(steady(150.0, 1.3, 30_000, 0))] == [True] * 4
    assert [check.met for check in fanout.judge_steady(steady(151.0, 1.31, 30_001, 1))] == [False] * 4


def test_targets_of_a_storm() -> None:
    direct = Summary(9, 1.0, 2.0, 3.0)

    def storms(seconds: float, p99: float, lost: int) -> Storms:
        engine_then = Engine(direct, Summary(9, 1.0, p99, p99))
        returned = [Returned(20, 0.1, 0.2, 0.1), Returned(20, 0.1, seconds, 0.1)]
        quiet = deliveries(lost=lost)
        return Storms(engine_then, quiet, engine_then, returned, quiet, engine_then, returned, late=1)

    assert [check.met for check in fanout.judge_storm(storms(6.0, 7.0, 0))] == [True] * 5
    assert [check.met for check in fanout.judge_storm(storms(6.1, 7.1, 1))] == [False] * 5


def test_replication_targets() -> None:
    bare, disk = Summary(9, 1.0, 2.0, 3.0), Summary(9, 1.0, 2.0, 3.0)
    good = replication.Measured(bare, disk, Summary(9, 4.9, 9.0, 9.0))
    slow = replication.Measured(bare, disk, Summary(9, 5.1, 9.0, 9.0))
    held = Summary(9, 1.2, 2.0, 3.0)
    assert [check.met for check in replication.judge(good, slow, held)] == [True, False, True]
    assert [check.measured for check in replication.judge(good, slow, held)] == ["4.9 x", "5.1 x", "1.2 x"]


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


def test_the_target_for_large_payloads_is_a_share_of_the_direct_call() -> None:
    direct = Summary(9, 4.0, 5.0, 6.0)
    near, far = (Summary(9, p50, 9.0, 9.0) for p50 in (5.0, 6.0))
    found = [
        engine.Latency(engine.ALONE, engine.LARGE_BYTES, engine.GET_EL, direct, near),
        engine.Latency(engine.ALONE, engine.LARGE_BYTES, engine.GET_BUILDER, direct, far),
        engine.Latency(engine.LOADED, engine.LARGE_BYTES, engine.GET_EL, direct, far),
    ]
    assert [(check.measured, check.met) for check in engine.judge(found, None)] == [("25%", True), ("50%", False)]


def test_a_builder_that_hangs_costs_its_deadline_and_nothing_else() -> None:
    quick, late = Summary(9, 1.0, 1.5, 2.0), Summary(9, 1.0, 320.0, 320.0)
    well = engine_hanging.Requests(quick, quick, quick, 1.0)
    waited = engine_hanging.Requests(quick, quick, late, 1.0)
    found = engine_hanging.Hanging(3, well, waited, 3)
    assert found.beyond_ms == pytest.approx(320 - engine_hanging.DEADLINE_MS - 1.0)
    assert [check.met for check in engine_hanging.judge([found])] == [False, True, True, True, True]
    slowed = engine_hanging.Hanging(3, well, engine_hanging.Requests(late, quick, quick, 1.0), 0)
    assert [check.met for check in engine_hanging.judge([slowed])] == [True, True, False, True, True]


def test_burst_targets() -> None:
    took = Summary(100, 1.0, 9.0, 9.5)
    every = engine_burst.Copies("execution client", 100, has_last=True)
    slow = engine_burst.Copies("slow builder", 30, has_last=True)
    stuck = engine_burst.Copies("builder that hangs", 0, has_last=False)
    good = engine_burst.Burst(100, 500.0, took, 0.3, took, every, [every, slow, stuck])
    assert [check.met for check in engine_burst.judge(good, 500.0)] == [True] * 5
    old = engine_burst.Copies("slow builder", 100, has_last=False)
    short = engine_burst.Copies("execution client", 99, has_last=True)
    bad = engine_burst.Burst(100, 450.0, Summary(100, 1.0, 11.0, 12.0), 0.3, took, short, [every, old, stuck])
    assert [check.met for check in engine_burst.judge(bad, 500.0)] == [False] * 5
