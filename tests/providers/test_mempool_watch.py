"""What is a drop and what is not."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.providers.mempool_watch import LONGEST_S, MempoolWatch, Sighting, Watched


def watching(*hashes: str, most: int = 10) -> tuple[MempoolWatch, list[Watched]]:
    watch = MempoolWatch(most)
    for number, each in enumerate(hashes):
        watch.accepted("main", each, number)
    return watch, watch.due(len(hashes), 100)


def test_two_looks_in_a_row_that_find_nothing_are_a_drop() -> None:
    watch, (one,) = watching("0x1")
    assert not watch.looked(one, Sighting.UNKNOWN)
    assert watch.looked(one, Sighting.UNKNOWN)
    assert (watch.dropped, len(watch)) == (1, 0)


def test_one_that_is_seen_again_was_not_dropped() -> None:
    watch, (one,) = watching("0x1")
    for _ in range(5):
        assert not watch.looked(one, Sighting.UNKNOWN)
        assert not watch.looked(one, Sighting.PENDING)
    assert (watch.dropped, len(watch)) == (0, 1)


def test_mined_and_replaced_ones_are_no_drops() -> None:
    watch, (one, two) = watching("0x1", "0x2")
    assert not watch.looked(one, Sighting.MINED)
    assert not watch.looked(two, Sighting.REPLACED)
    assert watch.statistics() == {
        "watched": 0,
        "seen_pending": 0,
        "mined": 1,
        "replaced": 1,
        "dropped": 0,
        "given_up": 0,
    }


def test_the_same_transaction_is_watched_once_for_each_endpoint() -> None:
    watch, _ = watching("0x1", "0x1")
    assert len(watch) == 1
    watch.accepted("backup", "0x1", 5)
    assert len(watch) == 2


def test_over_the_bound_the_oldest_goes_and_is_counted() -> None:
    watch, _ = watching("0x1", "0x2", "0x3", most=2)
    assert [each.hash for each in watch.due(5, 10)] == ["0x2", "0x3"]
    assert watch.given_up == 1


def test_who_was_looked_at_longest_ago_comes_first() -> None:
    watch, _ = watching("0x1", "0x2", "0x3")
    assert [each.hash for each in watch.due(5, 2)] == ["0x1", "0x2"]
    assert [each.hash for each in watch.due(5, 2)] == ["0x3", "0x1"]


def test_after_hours_it_is_given_up() -> None:
    watch, _ = watching("0x1")
    assert watch.due(LONGEST_S + 1, 10) == []
    assert watch.given_up == 1


def test_newcomers_are_those_whose_nonce_is_not_known() -> None:
    watch, (one, two) = watching("0x1", "0x2")
    one.nonce = 7
    assert watch.newcomers() == [two]


def test_a_look_that_comes_too_late_changes_nothing() -> None:
    watch, (one,) = watching("0x1")
    watch.looked(one, Sighting.MINED)
    assert not watch.looked(one, Sighting.UNKNOWN)
    assert watch.dropped == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Sighting)), max_size=100))
def test_every_transaction_ends_in_one_way_at_most(looks: list[tuple[int, Sighting]]) -> None:
    watch, found = watching(*(hex(number) for number in range(6)))
    drops = sum(watch.looked(found[index], sighting) for index, sighting in looks)
    assert drops == watch.dropped
    assert watch.mined + watch.replaced + watch.dropped + len(watch) == 6
