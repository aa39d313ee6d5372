"""Who is at the head, in groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fanout.frames import Variant
from appliance.fanout.heads import Heads
from appliance.fanout.marks import Mark
from appliance.fanout.session import Session
from tests.fanout.fakes import FakeWire


def session(variant: Variant = Variant.TEXT) -> Session:
    return Session(FakeWire(), variant, Mark(0), None, next_ping_at=0.0, drop=lambda: None)


def test_a_list_is_kept_while_nobody_comes_or_goes() -> None:
    heads = Heads()
    heads.add(session())
    heads.add(session(Variant.BROTLI))
    first = heads.everything()
    assert heads.everything()[Variant.TEXT] is first[Variant.TEXT]
    heads.add(session(Variant.BROTLI))
    second = heads.everything()
    assert second[Variant.TEXT] is first[Variant.TEXT]
    assert len(first[Variant.BROTLI]) == 1
    assert len(second[Variant.BROTLI]) == 2


def test_a_list_that_somebody_holds_is_not_changed() -> None:
    heads, one, other = Heads(), session(), session()
    heads.add(one)
    heads.add(other)
    held = heads.everything()[Variant.TEXT]
    heads.remove(one)
    assert held == [one, other]
    assert heads.everything() == {Variant.TEXT: [other]}
    heads.remove(other)
    assert heads.everything() == {}


def test_who_is_not_there_cannot_go() -> None:
    heads = Heads()
    with pytest.raises(KeyError):
        heads.remove(session())


@given(st.lists(st.tuples(st.sampled_from(Variant), st.booleans(), st.booleans())))
def test_the_lists_are_those_who_are_there_in_the_order_of_their_coming(
    steps: list[tuple[Variant, bool, bool]],
) -> None:
    heads, there = Heads(), list[Session]()
    for variant, comes, looks in steps:
        if comes or not there:
            there.append(session(variant))
            heads.add(there[-1])
        else:
            heads.remove(there.pop(len(there) // 2))
        if looks:
            expected = {variant: [one for one in there if one.variant is variant] for variant in Variant}
            assert heads.everything() == {variant: group for variant, group in expected.items() if group}
    assert set(heads) == set(there)
