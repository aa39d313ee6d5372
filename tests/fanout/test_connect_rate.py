"""How often an address may connect."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.fanout import connect_rate
from appliance.fanout.connect_rate import BURST_OF_PLACES, LEAST_PLACES, REFILL_S, ConnectRate


def admitted(rate: ConnectRate, address: str, now: float, tries: int) -> int:
    return sum(rate.admit(address, now) for _ in range(tries))


def test_all_places_may_come_back_at_once_and_then_so_many_in_a_while() -> None:
    rate = ConnectRate(100)
    assert admitted(rate, "a", 0, 1000) == 100 * BURST_OF_PLACES
    assert admitted(rate, "a", 1, 1000) == 100 / REFILL_S
    assert admitted(rate, "b", 1, 1000) == 100 * BURST_OF_PLACES
    assert admitted(rate, "a", 1 + REFILL_S, 1000) == 100
    assert admitted(rate, "a", 1000, 1000) == 100 * BURST_OF_PLACES


def test_one_place_is_enough_to_reconnect_and_to_be_refused_in_words() -> None:
    assert admitted(ConnectRate(1), "a", 0, 1000) == BURST_OF_PLACES * LEAST_PLACES


def test_only_so_many_addresses_are_remembered() -> None:
    rate = ConnectRate(1)
    for number in range(connect_rate.MAX_ADDRESSES + 100):
        rate.admit(str(number), 0)
    assert len(rate) == connect_rate.MAX_ADDRESSES
    last = str(connect_rate.MAX_ADDRESSES + 99)
    assert admitted(rate, last, 0, 1000) == BURST_OF_PLACES * LEAST_PLACES - 1


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3]), st.sampled_from("ab")), min_size=100, max_size=300),
    st.integers(LEAST_PLACES, 60),
)
def test_no_address_ever_gets_more_than_its_share(steps: list[tuple[float, str]], places: int) -> None:
    rate, now = ConnectRate(places), 0.0
    taken: dict[str, list[float]] = {"a": [], "b": []}
    for wait, address in steps:
        now += wait
        if rate.admit(address, now):
            taken[address].append(now)
    for times in taken.values():
        for index, begin in enumerate(times):
            for count, end in enumerate(times[index:], 1):
                assert count <= BURST_OF_PLACES * places + (end - begin) * places / REFILL_S + 1
