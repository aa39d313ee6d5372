"""How far the log is committed: in its order, past what is decided, and around what is not."""

import math
import time

from appliance.domain.payloads import PayloadId
from appliance.replication.order import CommitOrder, Waiting
from appliance.replication.places import Place

P, Q, R = PayloadId("0x01"), PayloadId("0x02"), PayloadId("0x03")
ALL = 100


def order_of(*entries: tuple[PayloadId, int, float], publish_after_s: float | None = None) -> CommitOrder:
    """(payload, index, born) at positions 1, 2, ...; on this disk since 10."""
    order = CommitOrder(0, publish_after_s)
    for position, (payload_id, index, born) in enumerate(entries, start=1):
        assert order.held(Waiting(position, Place(payload_id, index, b"x"), 10.0, born))
    return order


def passed(order: CommitOrder) -> list[int]:
    return [waiting.position for waiting in order.advance()]


def moved(order: CommitOrder, payload_id: PayloadId, index: int, position: int, born: float = 1.0) -> bool:
    return order.held(Waiting(position, Place(payload_id, index, b"x"), 10.0, born))


def test_the_commit_point_passes_what_is_decided_in_log_order() -> None:
    order = order_of((P, 0, 1.0), (P, 1, 2.0), (Q, 0, 3.0))
    order.decide((P, 1))
    assert passed(order) == []
    assert order.is_committed(2, (P, 1))
    assert not order.is_committed(1, (P, 0))
    order.decide((P, 0))
    assert passed(order) == [1, 2]
    assert (order.committed, order.shown, len(order)) == (2, 2, 1)
    assert order.is_committed(1, (P, 0))


def test_what_has_given_way_is_not_committed_where_it_stood_before() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0))
    order.decide((Q, 0))
    moved(order, P, 0, 3)
    assert passed(order) == [2]
    assert not order.is_committed(1, (P, 0))
    order.decide((P, 0))
    assert order.is_committed(1, (P, 0))
    assert passed(order) == [3]
    assert order.is_committed(1, (P, 0))


def test_what_is_overdue_is_looked_at_once() -> None:
    order = order_of(*((P, index, 1.0) for index in range(20_000)), publish_after_s=1.0)
    assert order.show_overdue(10.5) is None
    assert order.show_overdue(11.5) == 20_000
    began = time.thread_time()
    for _ in range(200):
        assert order.show_overdue(12.0) is None
    assert time.thread_time() - began < 0.05
    moved(order, P, 0, 20_001)
    assert order.show_overdue(12.0) == 20_001


def test_what_is_undecided_before_something_decided_blocks_it() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0))
    assert order.blocked() is None
    order.decide((Q, 0))
    blocking = order.blocked()
    assert blocking is not None
    assert blocking.place.key == (P, 0)
    assert [waiting.position for waiting in order.undecided(ALL)] == [1]


def test_what_nothing_decided_stands_behind_blocks_nothing() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0), (R, 0, 3.0))
    assert order.blocking(ALL) == []
    order.decide((Q, 0))
    assert [waiting.position for waiting in order.blocking(ALL)] == [1]
    assert [waiting.position for waiting in order.undecided(ALL)] == [1, 3]


def test_what_was_moved_is_where_it_is_now_and_still_decided() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0))
    order.decide((Q, 0))
    order.decide((P, 0))
    assert not moved(order, P, 0, 3)
    assert passed(order) == [2, 3]


def test_while_a_payload_is_changed_the_commit_point_does_not_pass_it() -> None:
    order = order_of((P, 0, 1.0))
    order.decide((P, 0))
    order.frozen.add(P)
    assert passed(order) == []
    order.frozen.discard(P)
    assert passed(order) == [1]


def test_what_is_removed_leaves_a_hole_that_is_passed() -> None:
    order = order_of((P, 0, 1.0), (P, 1, 2.0), (Q, 0, 3.0))
    order.decide((P, 0))
    order.decide((Q, 0))
    assert order.removed(P, 1) == [2]
    assert passed(order) == [1, 3]


def test_holes_at_the_end_are_passed_when_nothing_waits() -> None:
    order = order_of((P, 0, 1.0), (P, 1, 2.0))
    order.decide((P, 0))
    assert passed(order) == [1]
    assert not order.pass_holes()
    order.removed(P, 1)
    assert order.pass_holes()
    assert (order.committed, order.shown) == (2, 2)
    assert not order.pass_holes()


def test_nothing_behind_a_branch_that_lost_is_passed_before_the_other_one_is_here() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0))
    order.decide((Q, 0))
    order.wait_for((P, 0), min(order.removed(P, 0)), until=20.0)
    assert passed(order) == []
    order.give_up_waiting(19.9)
    assert passed(order) == []
    moved(order, P, 0, 3)
    assert passed(order) == [2]


def test_but_not_for_ever() -> None:
    order = order_of((P, 0, 1.0), (Q, 0, 2.0))
    order.decide((Q, 0))
    order.wait_for((P, 0), min(order.removed(P, 0)), until=20.0)
    order.give_up_waiting(20.0)
    assert passed(order) == [2]


def test_what_is_older_goes_before_what_is_younger_of_other_payloads() -> None:
    order = order_of((P, 0, 5.0), (P, 1, 6.0), (Q, 0, 7.0), (R, 0, 1.0))
    older = order.at(4)
    assert older is not None
    assert [waiting.position for waiting in order.younger(older, 0.5, ALL)] == [1, 2, 3]
    assert [waiting.position for waiting in order.younger(older, 5.0, ALL)] == [3]
    assert order.younger(older, 0.5, ALL, after=2) == [order.at(3)]
    assert [waiting.position for waiting in order.younger(older, 0.5, 2)] == [3]  # of the last two, it is one itself
    assert order.younger(Waiting(9, Place(Q, 1, b"x"), 10.0, 5.6), 0.5, ALL) == []  # its own payload's do not count


def test_the_oldest_of_them_gives_way_first() -> None:
    order = order_of((P, 0, 6.0), (Q, 0, 5.0), (R, 0, 1.0))
    older = order.at(3)
    assert older is not None
    assert [waiting.position for waiting in order.younger(older, 0.5, ALL)] == [2, 1]


def test_an_entry_is_no_older_than_its_predecessor() -> None:
    order = order_of((P, 0, 5.0))
    assert order.born_before(Place(P, 1, b"x")) == 5.0
    assert order.born_before(Place(P, 0, b"x")) == -math.inf
    assert order.born_before(Place(Q, 1, b"x")) == -math.inf


def test_what_was_shown_does_not_move() -> None:
    order = order_of((P, 0, 5.0), (Q, 0, 6.0), (R, 0, 1.0), publish_after_s=2.0)
    assert order.show_overdue(11.9) is None
    assert order.show_overdue(12.0) == 3
    assert order.show_overdue(13.0) is None
    older = order.at(3)
    assert older is not None
    assert order.younger(older, 0.5, ALL) == []
    order.decide((Q, 0))
    assert order.blocked() is None
    assert (order.committed, order.shown) == (0, 3)


def test_nothing_is_shown_early_where_operators_want_to_hold() -> None:
    assert order_of((P, 0, 1.0)).show_overdue(1e9) is None
