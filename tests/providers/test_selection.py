"""Who is asked, in which order, and why another one."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.providers.endpoint_health import EndpointHealth, State, Thresholds
from appliance.providers.selection import Selection, Switch

LIMITS = Thresholds(mempool_drop_threshold=1, mempool_drop_window_s=100, return_after_s=30, max_head_age_s=60)


def group(*names: str) -> tuple[Selection, dict[str, EndpointHealth]]:
    healths = {name: EndpointHealth(LIMITS, 0) for name in names}
    return Selection(healths, LIMITS), healths


def test_the_first_is_active_and_the_others_follow_in_order() -> None:
    selection, _ = group("a", "b", "c")
    assert selection.active == "a"
    assert selection.candidates(0, reading=True) == ["a", "b", "c"]
    assert selection.settle(0) is None


def test_who_is_unwell_is_left_and_returned_to() -> None:
    selection, healths = group("a", "b")
    healths["a"].refused(1, "HTTP 403")
    assert selection.settle(1) == Switch("a", "b", "HTTP 403")
    assert selection.candidates(1, reading=True) == ["b"]
    healths["a"].probe_succeeded(2)
    assert selection.settle(2) is None
    assert selection.candidates(2, reading=True) == ["b", "a"]
    healths["a"].probe_succeeded(40)
    assert selection.settle(40) == Switch("b", "a", "a preferred endpoint is well again")
    assert selection.switches == 2


def test_with_nobody_well_who_is_on_the_way_back_serves_at_once() -> None:
    selection, healths = group("a", "b")
    for health in healths.values():
        health.refused(1, "down")
    assert selection.settle(1) == Switch("a", None, "down")
    assert selection.why_nobody(1) == "a (down), b (down)"
    healths["b"].probe_succeeded(2)
    assert selection.settle(2) == Switch(None, "b", "an endpoint answers again")


def test_who_only_loses_transactions_is_still_read_from_when_nobody_else_is_there() -> None:
    selection, healths = group("a", "b")
    healths["a"].refused(1, "down")
    healths["b"].dropped_from_mempool(1)
    assert selection.candidates(1, reading=True) == ["b"]
    assert selection.candidates(1, reading=False) == []


def test_an_old_head_counts_while_a_newer_one_was_seen_lately() -> None:
    selection, healths = group("a", "b")
    selection.saw_head("b", 0, 100, 0)
    selection.saw_head("a", 0, 80, 0)
    assert selection.candidates(0, reading=True) == ["b"]
    selection.saw_head("a", 60, 80, 60)
    assert healths["a"].state is State.UNWELL
    selection.saw_head("a", 61, 80, 61)  # b is gone: as far as anybody knows the chain is at 80
    assert not healths["a"].faults(61)
    healths["a"].probe_succeeded(61)
    assert selection.candidates(61, reading=True) == ["b", "a"]


def test_its_text_is_fit_for_a_log() -> None:
    assert repr(group("a", "b")[0]) == "<Selection a of a, b>"


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["refused", "failed", "probe", "drop"])), max_size=60))
def test_the_active_one_is_the_first_that_is_well(events: list[tuple[int, str]]) -> None:
    selection, healths = group("a", "b", "c")
    for now, (index, event) in enumerate(events):
        health = list(healths.values())[index]
        match event:
            case "refused":
                health.refused(now, "why")
            case "failed":
                health.failed(now, "why")
            case "probe":
                health.probe_succeeded(now)
            case "drop":
                health.dropped_from_mempool(now)
        before = selection.active
        switch = selection.settle(now)
        well = [name for name, each in healths.items() if each.state is State.WELL]
        assert not well or selection.active == well[0]
        assert (switch is None) == (selection.active == before)
        assert not set(selection.candidates(now, reading=False)) - set(selection.candidates(now, reading=True))
