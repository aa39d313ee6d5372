import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.backoff import Backoff


def test_delays_double_from_ten_milliseconds_to_five_seconds() -> None:
    backoff = Backoff()

    delays = [backoff.next() for _ in range(12)]

    assert delays[:4] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert delays[8:] == pytest.approx([2.56, 5.0, 5.0, 5.0])


def test_a_success_starts_again_from_the_first_delay() -> None:
    backoff = Backoff(initial_s=1, maximum_s=8)
    for _ in range(5):
        backoff.next()

    backoff.reset()

    assert backoff.next() == 1
    assert backoff.next() == 2


@pytest.mark.parametrize(("initial_s", "maximum_s"), [(0, 1), (-1, 1), (2, 1)])
def test_delays_that_make_no_sense_are_refused(initial_s: float, maximum_s: float) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(initial_s, maximum_s)


@given(st.floats(0.001, 10), st.floats(1, 1000), st.integers(1, 50))
def test_delays_never_shrink_and_stay_within_the_bounds(initial_s: float, factor: float, count: int) -> None:
    backoff = Backoff(initial_s, initial_s * factor)

    delays = [backoff.next() for _ in range(count)]

    assert delays == sorted(delays)
    assert all(initial_s <= delay <= initial_s * factor for delay in delays)
