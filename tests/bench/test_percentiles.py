"""What a list of samples says."""

from hypothesis import given
from hypothesis import strategies as st

from bench.percentiles import Summary, median, percentile


def test_percentiles_are_samples_by_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]


def test_nothing_measured_is_zero() -> None:
    assert Summary.of([]) == Summary(0, 0.0, 0.0, 0.0)


def test_a_summary_can_change_its_unit() -> None:
    assert Summary.of([0.001, 0.002]).scaled(1e3) == Summary(2, 1.0, 2.0, 2.0)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_summary_is_ordered_and_made_of_samples(samples: list[float]) -> None:
    summary = Summary.of(samples)
    assert summary.p50 <= summary.p99 <= summary.max == max(samples)
    assert {summary.p50, summary.p99, median(samples)} <= set(samples)
