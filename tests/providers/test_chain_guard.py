"""Who says which chain a group is on."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.providers.chain_guard import ChainGuard


def guard(configured: int | None = None) -> ChainGuard:
    return ChainGuard(("a", "b", "c"), configured)


def test_a_configured_chain_decides_at_once() -> None:
    made = guard(1)
    made.said("b", 1)
    made.said("a", 5)
    assert (made.confirmed("a"), made.confirmed("b"), made.confirmed("c")) == (False, True, False)
    assert made.verdicts() == {"a": "on chain 5, and this group is on chain 1 (chain_id)", "b": ""}
    assert repr(made) == "<ChainGuard 1 by chain_id>"


def test_the_first_in_the_order_decides_though_it_is_the_last_to_say() -> None:
    made = guard()
    made.said("c", 3)
    made.said("b", 2)
    assert (made.expected, made.verdicts(), made.confirmed("b"), made.knows("b")) == (None, {}, False, True)
    made.said("a", 1)
    assert (made.expected, made.confirmed("a")) == (1, True)
    assert made.verdicts()["c"] == "on chain 3, and this group is on chain 1 (as a says; chain_id would decide)"


def test_who_is_silent_is_not_waited_for_and_its_word_comes_too_late() -> None:
    made = guard()
    made.said("b", 2)
    made.away("a")
    assert made.expected == 2
    made.said("a", 1)
    assert made.expected == 2
    assert made.wrong("a").startswith("on chain 1")


def test_silence_alone_decides_nothing_and_the_next_word_does() -> None:
    made = guard()
    for name in ("a", "b", "c"):
        made.away(name)
    assert made.expected is None
    made.said("c", 3)
    assert made.expected == 3


def test_who_was_away_is_asked_anew_and_counts_for_nothing_until_then() -> None:
    made = guard(1)
    made.said("a", 1)
    assert made.knows("a")
    made.away("a")
    assert (made.knows("a"), made.confirmed("a"), made.wrong("a"), made.chain_of("a")) == (False, False, "", None)


def test_who_is_on_another_chain_is_asked_again_and_again() -> None:
    made = guard(1)
    made.said("a", 5)
    assert not made.knows("a")
    made.said("a", 1)
    assert (made.knows("a"), made.wrong("a")) == (True, "")


NAMES = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(NAMES, st.one_of(st.none(), st.integers(1, 3)))), st.one_of(st.none(), st.integers(1, 3)))
def test_what_is_decided_stays_and_nobody_on_another_chain_is_confirmed(
    events: list[tuple[str, int | None]], configured: int | None
) -> None:
    made = guard(configured)
    decided = configured
    last: dict[str, int | None] = {}
    for name, chain in events:
        if chain is None:
            made.away(name)
        else:
            made.said(name, chain)
        last[name] = chain
        assert made.expected == decided or decided is None
        decided = made.expected
        for each in ("a", "b", "c"):
            assert made.confirmed(each) == (last.get(each) is not None and last[each] == decided)
            assert bool(made.wrong(each)) == (decided is not None and last.get(each) not in (None, decided))
