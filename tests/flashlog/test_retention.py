from hypothesis import given
from hypothesis import strategies as st

from appliance.flashlog.retention import RetentionLimits, cut
from appliance.flashlog.spans import Span
from tests.flashlog.support import payload_id

HOUR = 3600.0


def spans(*stretches: tuple[int, int], size: int = 100, every_s: float = HOUR) -> list[Span]:
    """Payloads by (first, last) position; the n-th was appended n hours after the start."""
    return [
        Span(payload_id(number), 1000 + number, first, last, size, number * every_s)
        for number, (first, last) in enumerate(stretches)
    ]


FOUR = spans((1, 3), (4, 6), (7, 9), (10, 12))


def test_nothing_is_due() -> None:
    assert cut(FOUR, 400, 3 * HOUR, RetentionLimits(max_age_s=4 * HOUR, max_bytes=400)) is None


def test_old_payloads_go_whole() -> None:
    limits = RetentionLimits(max_age_s=1.5 * HOUR, max_bytes=None)
    assert cut(FOUR, 400, 3 * HOUR, limits) == 6


def test_what_is_too_much_goes_oldest_first() -> None:
    limits = RetentionLimits(max_age_s=None, max_bytes=250)
    assert cut(FOUR, 400, 3 * HOUR, limits) == 6


def test_the_current_payload_stays_however_old_and_big() -> None:
    assert cut(FOUR, 400, 1e9, RetentionLimits(max_age_s=1, max_bytes=1)) == 9
    assert cut(FOUR[-1:], 10**12, 1e9, RetentionLimits(max_age_s=1, max_bytes=1)) is None
    assert cut([], 0, 1e9, RetentionLimits(max_age_s=1, max_bytes=1)) is None


def test_no_limit_no_removal() -> None:
    assert cut(FOUR, 10**12, 1e12, RetentionLimits(max_age_s=None, max_bytes=None)) is None


def test_interleaved_payloads_go_together() -> None:
    woven = spans((1, 5), (2, 8), (9, 9))
    assert cut(woven, 300, HOUR, RetentionLimits(max_age_s=HOUR / 2, max_bytes=None)) is None
    assert cut(woven, 300, 3 * HOUR, RetentionLimits(max_age_s=HOUR / 2, max_bytes=None)) == 8


def test_a_resumed_payload_with_the_last_entry_is_the_current_one() -> None:
    resumed = spans((1, 3), (4, 9), (7, 8))
    assert cut(resumed, 300, 1000 * HOUR, RetentionLimits()) == 3


def test_an_old_payload_behind_a_young_one_waits() -> None:
    young_first = [
        Span(payload_id(1), 1, 1, 3, 10, 100 * HOUR),
        Span(payload_id(2), 2, 4, 6, 10, 0.0),
        Span(payload_id(3), 3, 7, 9, 10, 100 * HOUR),
    ]
    assert cut(young_first, 30, 100 * HOUR, RetentionLimits(max_age_s=HOUR, max_bytes=None)) is None


@st.composite
def logs(draw: st.DrawFn) -> list[Span]:
    """Payloads whose stretches may overlap, ordered by first position."""
    firsts = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=8)))
    return [
        Span(
            payload_id(number),
            1000 + number,
            first,
            first + draw(st.integers(0, 12)),
            draw(st.integers(1, 50)),
            draw(st.floats(0, 100)),
        )
        for number, first in enumerate(firsts)
    ]


@given(
    held=logs(),
    now=st.floats(0, 200),
    max_age_s=st.none() | st.floats(0, 100),
    max_bytes=st.none() | st.integers(0, 300),
)
def test_a_cut_never_splits_a_payload_nor_touches_the_current_one(
    held: list[Span], now: float, max_age_s: float | None, max_bytes: int | None
) -> None:
    total = sum(span.bytes for span in held)
    found = cut(held, total, now, RetentionLimits(max_age_s, max_bytes))
    if found is None:
        return
    gone = [span for span in held if span.first_position <= found]
    assert held[-1] not in gone
    assert max(span.last_position for span in gone) == found
    left = total
    for span in gone:
        old = max_age_s is not None and span.appended_at < now - max_age_s
        assert old or (max_bytes is not None and left > max_bytes)
        left -= span.bytes
