"""How much of the room for filters one address may take."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fanout import filters
from appliance.fanout.filter_shares import FilterShares
from appliance.fanout.filters import MAX_ITEMS, MAX_ITEMS_IN_ALL, MAX_ITEMS_PER_ADDRESS, Filter

HERE, THERE = "192.0.2.1", "192.0.2.2"


def wanting(*numbers: int) -> Filter:
    return Filter([number.to_bytes(20, "big") for number in numbers])


def test_equal_filters_of_one_address_count_once_until_the_last_has_gone() -> None:
    shares = FilterShares()
    for _ in range(3):
        shares.take(HERE, wanting(1, 2))
    assert shares.items_of(HERE) == 2
    for left in (2, 2, 0):
        shares.give_back(HERE, wanting(1, 2))
        assert shares.items_of(HERE) == left
    assert len(shares) == 0


def test_what_one_address_has_taken_another_may_take_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_ITEMS_PER_ADDRESS", 3)
    shares = FilterShares()
    shares.take(HERE, wanting(1, 2))
    assert not shares.has_room_for(HERE, wanting(3, 4))
    assert shares.has_room_for(HERE, wanting(3))
    assert shares.has_room_for(HERE, wanting(1, 2))
    assert shares.has_room_for(THERE, wanting(3, 4))


def test_eight_addresses_are_needed_to_fill_the_room_and_each_may_have_many_large_filters() -> None:
    assert 8 * MAX_ITEMS_PER_ADDRESS == MAX_ITEMS_IN_ALL
    assert MAX_ITEMS_PER_ADDRESS > 90 * MAX_ITEMS


Step = tuple[str, tuple[int, ...], bool]
STEPS = st.lists(
    st.tuples(st.sampled_from((HERE, THERE)), st.sampled_from([(1,), (1, 2), (3, 4, 5), (6,)]), st.booleans())
)


@given(STEPS)
def test_it_counts_what_a_plain_list_of_subscribers_counts(steps: list[Step]) -> None:
    shares, present = FilterShares(), Counter[tuple[str, Filter]]()
    for address, numbers, comes in steps:
        wanted = wanting(*numbers)
        if comes:
            shares.take(address, wanted)
            present[address, wanted] += 1
        elif present[address, wanted]:
            shares.give_back(address, wanted)
            present[address, wanted] -= 1
        for each in (HERE, THERE):
            held = {found for (where, found), count in present.items() if where == each and count}
            assert shares.items_of(each) == sum(found.items for found in held)
        assert len(shares) == len({where for (where, _), count in present.items() if count})
