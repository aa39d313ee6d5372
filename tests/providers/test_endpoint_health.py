"""The health machine alone: numbers for time, no loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.providers.endpoint_health import MOST_PATIENCE, EndpointHealth, Fault, State, Thresholds

LIMITS = Thresholds(
    transient_error_threshold=3,
    mempool_drop_threshold=2,
    mempool_drop_window_s=100,
    max_head_age_s=60,
    max_head_lag=5,
    return_after_s=30,
)


def health() -> EndpointHealth:
    return EndpointHealth(LIMITS, 0)


def state_of(made: EndpointHealth) -> State:
    """Not the attribute itself: mypy would take it for what it was at the last assertion."""
    return made.state


def unwell(now: float = 0) -> EndpointHealth:
    made = health()
    made.refused(now, "HTTP 401")
    return made


def test_it_begins_well() -> None:
    assert state_of(health()) is State.WELL
    assert health().explain(0) == "no head seen yet"


def test_errors_in_a_row_are_a_fault_at_the_threshold() -> None:
    made = health()
    made.failed(1, "a")
    made.failed(2, "b")
    assert state_of(made) is State.WELL
    made.failed(3, "c")
    assert state_of(made) is State.UNWELL
    assert made.explain(3) == "3 errors in a row, the last one: c"
    assert made.is_silent(3)


def test_another_chain_is_a_fault_until_it_says_the_right_one_and_takes_no_reads() -> None:
    made = health()
    made.saw_chain(1, "on chain 5")
    assert (state_of(made), made.explain(1), made.errors) == (State.UNWELL, "on chain 5", 1)
    assert made.is_silent(1)
    assert not made.answers(1)
    made.saw_chain(2, "on chain 5")
    assert made.errors == 1
    made.refused(2, "no connection")
    made.probe_failed(2, "no answer")
    made.saw_chain(3, "on chain 5")
    assert made.explain(3) == "on chain 5"
    made.saw_chain(3, "")
    assert state_of(made) is State.UNWELL
    made.probe_succeeded(3)
    assert state_of(made) is State.RETURNING


def test_a_success_resets_the_row() -> None:
    made = health()
    for now in range(0, 20, 2):
        made.failed(now, "a")
        made.failed(now, "a")
        made.succeeded(now + 1)
    assert state_of(made) is State.WELL
    assert made.errors == 20


def test_probes_alone_do_not_hide_that_requests_fail() -> None:
    made = health()
    for now in range(3):
        made.failed(now, "a")
        made.probe_succeeded(now)
    assert made.relapses == 1


def test_failed_probes_count_until_a_good_one() -> None:
    made = health()
    for now in range(2):
        made.probe_failed(now, "a")
    made.probe_succeeded(2)
    made.probe_failed(3, "a")
    assert state_of(made) is State.WELL
    made.probe_failed(4, "a")
    made.probe_failed(5, "a")
    assert state_of(made) is State.UNWELL


def test_who_refuses_is_unwell_at_once() -> None:
    assert state_of(unwell()) is State.UNWELL
    assert unwell().explain(0) == "HTTP 401"


def test_the_way_back_takes_a_while_of_good_probes() -> None:
    made = unwell()
    made.probe_succeeded(10)
    assert state_of(made) is State.RETURNING
    assert made.answers(10)
    assert made.explain(20) == "answers again, returns in 20 s"
    made.probe_succeeded(39)
    assert state_of(made) is State.RETURNING
    made.probe_succeeded(40)
    assert state_of(made) is State.WELL


def test_a_bad_probe_on_the_way_back_begins_it_anew() -> None:
    made = unwell()
    made.probe_succeeded(10)
    made.probe_failed(35, "a")
    assert state_of(made) is State.UNWELL
    assert "waits for a good probe" in made.explain(35)
    made.probe_succeeded(36)
    made.probe_succeeded(65)
    assert state_of(made) is State.RETURNING
    made.probe_succeeded(66)
    assert state_of(made) is State.WELL


def test_who_relapses_soon_waits_longer_and_who_was_well_for_long_does_not() -> None:
    made = unwell()
    made.probe_succeeded(0)
    made.probe_succeeded(30)
    made.refused(31, "again")
    made.probe_succeeded(31)
    made.probe_succeeded(61)
    assert state_of(made) is State.RETURNING
    made.probe_succeeded(91)
    assert state_of(made) is State.WELL
    made.refused(1000, "much later")
    made.probe_succeeded(1000)
    made.probe_succeeded(1030)
    assert state_of(made) is State.WELL
    assert made.relapses == 3


def test_drops_are_counted_within_the_window() -> None:
    made = health()
    made.dropped_from_mempool(0)
    made.dropped_from_mempool(101)
    assert state_of(made) is State.WELL
    made.dropped_from_mempool(150)
    assert set(made.faults(150)) == {Fault.MEMPOOL_DROPS}
    assert made.answers(150)
    assert not made.is_silent(150)
    made.probe_succeeded(200)
    assert state_of(made) is State.UNWELL
    made.probe_succeeded(202)
    made.probe_succeeded(232)
    assert state_of(made) is State.WELL
    assert made.drops == 3


@pytest.mark.parametrize(
    ("head", "age_s", "best", "expected"),
    [
        (100, 0, 105, ""),
        (100, 0, 106, "head 100 is 6 blocks behind 106"),
        (100, 61, 101, "head 100 is 61 s old, and 101 exists"),
        (100, 6100, 100, ""),
        (100, 6100, 90, ""),
    ],
)
def test_a_head_is_stale_when_a_newer_one_exists(head: int, age_s: float, best: int, expected: str) -> None:
    made = health()
    made.saw_head(0, head, age_s)
    made.saw_best(0, best)
    assert made.explain(0) == (expected or f"head {head}")
    assert state_of(made) is (State.UNWELL if expected else State.WELL)


def test_the_same_head_again_grows_older() -> None:
    made = health()
    made.saw_head(0, 100, 12)
    made.saw_best(0, 101)
    made.saw_head(48, 100, 60)
    assert state_of(made) is State.WELL
    made.saw_head(49, 100, 61)
    assert state_of(made) is State.UNWELL


def test_its_text_is_fit_for_a_log() -> None:
    assert repr(health()) == "<EndpointHealth well, head None>"


EVENTS = st.sampled_from(["succeeded", "failed", "refused", "probe_succeeded", "probe_failed", "dropped"])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=80))
def test_well_means_no_fault_and_the_return_is_never_early(events: list[tuple[str, float]]) -> None:
    made, now, good_since = health(), 0.0, None
    for event, pause_s in events:
        now += pause_s
        before = state_of(made)
        match event:
            case "failed" | "refused" | "probe_failed":
                getattr(made, event)(now, "why")
            case "dropped":
                made.dropped_from_mempool(now)
            case _:
                getattr(made, event)(now)
        if state_of(made) is State.WELL:
            assert not made.faults(now)
        if before is not State.RETURNING and state_of(made) is State.RETURNING:
            good_since = now
        if before is State.RETURNING and state_of(made) is State.WELL:
            assert good_since is not None
            assert LIMITS.return_after_s <= now - good_since
        assert before is not State.UNWELL or state_of(made) is not State.WELL
        assert made._patience <= MOST_PATIENCE
