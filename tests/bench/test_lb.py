"""The load balancer's bench: its options, its verdicts, and that it runs."""

from contextlib import ExitStack

import pytest

from bench import lb
from bench.children import Child
from bench.percentiles import Summary

MS = Summary(10, 1.0, 2.0, 3.0)


def case(way: str, rate: float, *, connections: int = 32, size: int = lb.SMALL_BYTES) -> lb.Case:
    return lb.Case(way, connections, size, rate, 50.0, MS, 0)


def overload(loaded: float, reserve: int = 0) -> lb.Overload:
    return lb.Overload(reserve, Summary(9, 5.0, 10.0, 11.0), Summary(9, 6.0, loaded, 20.0), 800.0)


def test_defaults_quick_and_what_is_given() -> None:
    assert lb.parse([]) == (lb.Settings(), None)
    assert lb.parse(["--quick"])[0] == lb.QUICK
    assert lb.parse(["--quick", "--connections", "7", "--seconds", "2"])[0].connections == (7,)


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        lb.parse(["--help"])
    assert stopped.value.code == 0
    assert "--connections" in capsys.readouterr().out


def test_whichever_target_is_higher_is_judged() -> None:
    slow_bare = [case(lb.BARE, 9_000.0), case(lb.APPLIANCE, 7_900.0), case(lb.APPLIANCE, 90_000.0, size=200_000)]
    assert lb.judge(slow_bare, [], lb.Queue(1.0, 10.0))[0].met is False
    fast_bare = [case(lb.BARE, 20_000.0), case(lb.APPLIANCE, 14_100.0), case(lb.DIRECT, 90_000.0)]
    check = lb.judge(fast_bare, [], lb.Queue(1.0, 10.0))[0]
    assert (check.target, check.measured, check.met) == (">= 14,000/s", "14,100/s, 70% of the bare proxy", True)


def test_the_other_targets() -> None:
    good = lb.judge([], [overload(11.9), overload(12.1, reserve=1)], lb.Queue(14.0, 150.0))
    assert [check.met for check in good] == [True, False, True, True]
    bad = lb.judge([], [], lb.Queue(16.0, 200.0))
    assert [check.met for check in bad] == [False, False]


def test_the_queue_is_measured() -> None:
    found = lb.measure_queue(repeats=1)
    assert 0 < found.small_ms < found.large_ms


@pytest.mark.slow
def test_clients_back_end_and_bare_proxy_work_together() -> None:
    with ExitStack() as stack:
        node = stack.enter_context(Child("bench.lb_backend"))
        client = stack.enter_context(Child("bench.lb_client"))
        bare = stack.enter_context(Child("bench.lb_bare_proxy", str(node.ready["port"])))
        floor = stack.enter_context(Child("bench.lb_bare_proxy", str(node.ready["port"]), "--sockets"))
        for port in (node.ready["port"], bare.ready["port"], floor.ready["port"]):
            for size in (300, 200_000):
                answer = lb._run(client, port, 2, size, 0.5)
                assert (answer["count"] > 0, answer["errors"]) == (True, {})
