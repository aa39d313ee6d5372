"""The distribution of lag."""

from time import perf_counter

import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from appliance.fanout.broadcast import Sweeper
from appliance.fanout.lag import BOUNDS, LagDistribution
from tests.fanout.support import Stand


def distribution(*behind: int, subscribers: int) -> LagDistribution:
    made = LagDistribution("some_lag", "text")
    made.note(behind, subscribers)
    return made


def test_nobody_is_no_lag() -> None:
    assert distribution(subscribers=0).statistics() == {"p50": 0, "p90": 0, "p99": 0, "max": 0}


def test_those_at_the_head_count_too() -> None:
    found = distribution(40, 7, subscribers=100)
    assert found.statistics() == {"p50": 0, "p90": 0, "p99": 7, "max": 40}
    assert distribution(3, 1, 2, subscribers=3).statistics() == {"p50": 2, "p90": 3, "p99": 3, "max": 3}


@given(st.lists(st.integers(0, 9000), max_size=40), st.integers(0, 60))
def test_a_quantile_is_one_of_all_lags_in_order(behind: list[int], at_head: int) -> None:
    found = distribution(*behind, subscribers=len(behind) + at_head)
    lags = sorted([0] * at_head + behind)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        value = found.quantile(share)
        if lags:
            assert sum(lag <= value for lag in lags) >= share * len(lags)
            assert sum(lag < value for lag in lags) < share * len(lags)


def test_the_metric_is_a_picture_whose_buckets_go_down_again() -> None:
    registry = CollectorRegistry()
    found = distribution(1, 3, 100_000, subscribers=10)
    registry.register(found)
    lines = generate_latest(registry).decode().splitlines()
    assert 'some_lag_bucket{le="0.0"} 7.0' in lines
    assert 'some_lag_bucket{le="1.0"} 8.0' in lines
    assert 'some_lag_bucket{le="5.0"} 9.0' in lines
    assert f'some_lag_bucket{{le="{float(BOUNDS[-1])}"}} 9.0' in lines
    assert 'some_lag_bucket{le="+Inf"} 10.0' in lines
    found.note([], 10)
    assert 'some_lag_bucket{le="0.0"} 10.0' in generate_latest(registry).decode().splitlines()


async def test_each_sweep_takes_a_picture() -> None:
    stand = Stand()
    for _ in range(9):
        stand.connect()
    slow = stand.connect(choose=lambda size: 0)
    stand.publish(*((1, index) for index in range(5)))
    sweeper = Sweeper(stand.hub, 1.0, perf_counter, trio.lowlevel.checkpoint)
    await sweeper.sweep(trio.current_time())
    assert stand.hub.statistics()["lag"] == {"p50": 0, "p90": 0, "p99": 5, "max": 5}
    slow.wire.choose = lambda size: size
    stand.settle()
    await sweeper.sweep(trio.current_time())
    assert stand.hub.statistics()["lag"] == {"p50": 0, "p90": 0, "p99": 0, "max": 0}
