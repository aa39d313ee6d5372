import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lb import rate_limit
from appliance.lb.rate_limit import INSTANCE, KEY, Over, Rate, RateLimit

NONE = Rate(0.0, 1)


def wait_s(limit: RateLimit, key: str, now: float) -> int:
    """The whole seconds after which to try again; 0 for a request that passed."""
    over = limit.over(key, now)
    return 0 if over is None else over.wait_s


def test_a_burst_passes_at_once_and_then_so_many_a_second() -> None:
    limit = RateLimit(Rate(10.0, 5), NONE)
    assert [wait_s(limit, "k", 100.0) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert wait_s(limit, "k", 100.05) == 1
    assert wait_s(limit, "k", 100.11) == 0
    assert wait_s(limit, "k", 100.11) == 1


def test_the_wait_is_in_whole_seconds_and_true() -> None:
    limit = RateLimit(Rate(0.25, 1), NONE)
    assert wait_s(limit, "k", 0.0) == 0
    assert wait_s(limit, "k", 0.0) == 4
    assert wait_s(limit, "k", 4.0) == 0


def test_each_key_has_a_bucket_of_its_own() -> None:
    limit = RateLimit(NONE, Rate(1.0, 1))
    assert [wait_s(limit, key, 0.0) for key in ("a", "b", "a")] == [0, 0, 1]
    assert limit.keys == 2


def test_what_one_limit_refuses_takes_nothing_from_the_other() -> None:
    limit = RateLimit(Rate(1.0, 2), Rate(1.0, 1))
    assert wait_s(limit, "a", 0.0) == 0
    assert wait_s(limit, "a", 0.0) > 0
    assert wait_s(limit, "b", 0.0) == 0
    assert wait_s(limit, "c", 0.0) > 0


def test_the_limit_that_holds_longest_is_named() -> None:
    limit = RateLimit(Rate(1.0, 2), Rate(0.1, 1))
    assert limit.over("a", 0.0) is None
    assert limit.over("a", 0.0) == Over(KEY, 10)
    assert limit.over("b", 0.0) is None
    assert limit.over("c", 0.0) == Over(INSTANCE, 1)


def test_the_number_of_keys_is_bounded_and_the_one_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 2)
    limit = RateLimit(NONE, Rate(1.0, 1))
    wait_s(limit, "a", 0.0)
    wait_s(limit, "b", 0.0)
    wait_s(limit, "a", 0.0)
    wait_s(limit, "c", 0.0)
    assert limit.keys == 2
    assert wait_s(limit, "a", 0.1) == 1
    assert wait_s(limit, "b", 0.1) == 0


def test_without_limits_it_says_so_and_lets_all_pass() -> None:
    limit = RateLimit(NONE, NONE)
    assert not limit.active
    assert [wait_s(limit, "k", 0.0) for _ in range(3)] == [0, 0, 0]
    assert RateLimit(NONE, Rate(1.0, 1)).active


@given(st.floats(0.5, 1000), st.integers(1, 50), st.lists(st.floats(0, 3), max_size=200))
def test_never_more_than_burst_and_rate_together(per_s: float, burst: int, gaps: list[float]) -> None:
    limit = RateLimit(Rate(per_s, burst), NONE)
    now = passed = 0.0
    for gap in gaps:
        now += gap
        passed += wait_s(limit, "k", now) == 0
    assert passed <= burst + per_s * now + 1e-6
