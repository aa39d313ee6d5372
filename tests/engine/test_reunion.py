"""When a builder must be told its settings again."""

from appliance.engine.reunion import Reunion


def test_who_was_never_away_is_told_nothing() -> None:
    reunion = Reunion()
    assert [reunion.answered(), reunion.head_seen(1), reunion.head_seen(1), reunion.head_seen(2)] == [False] * 4


def test_who_was_away_is_told_once() -> None:
    reunion = Reunion()
    reunion.missed()
    reunion.missed()
    assert [reunion.answered(), reunion.answered(), reunion.head_seen(5)] == [True, False, False]


def test_a_probe_may_find_it_back() -> None:
    reunion = Reunion()
    reunion.missed()
    assert [reunion.head_seen(5), reunion.answered()] == [True, False]


def test_whose_head_went_back_was_restarted() -> None:
    reunion = Reunion()
    assert [reunion.head_seen(number) for number in (7, 8, 3, 4, 4)] == [False, False, True, False, False]
