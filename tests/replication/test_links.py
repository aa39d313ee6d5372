"""The two sides of a link: the window of the one, the cursor of the other."""

import pytest

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Copy, Cursor, Receipt, Verdict
from appliance.replication import source_link
from appliance.replication.follower_link import LOOK_AGAIN, MAX_REFUSED, BodyMissing, FollowerLink, Gap
from appliance.replication.places import Key, Place
from appliance.replication.source_link import SourceLink
from appliance.wire.replication import MAX_ITEMS, Ack, WireEntry

P = PayloadId("0x01")


def entry(position: int, index: int | None = None, *, committed: bool = False, body: bytes | None = b"x") -> WireEntry:
    index = position if index is None else index
    return WireEntry(position, P, index, 1, Encoding.TEXT, "a", 0.0, body, f"p{index}".encode(), committed)


def place(index: int) -> Place:
    return Place(P, index, f"p{index}".encode())


def source() -> SourceLink:
    return SourceLink("b", "log", 0, 0.0, begun_at=0, votes=True)


def room(link: SourceLink) -> bool:
    return link.has_room


# --- the source ---


def test_a_window_is_all_that_goes_unacknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_link, "WINDOW_ENTRIES", 3)
    link = source()
    link.send([entry(1), entry(2)], 0.0)
    assert room(link)
    link.send([entry(3)], 0.0)
    assert not room(link)
    link.ack(Ack(1, [], []), 1.0)
    assert room(link)
    assert (link.sent, link.acked, link.in_flight) == (3, 1, 2)


def test_so_it_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_link, "WINDOW_BYTES", 10)
    link = source()
    link.send([entry(1, body=b"0123456789")], 0.0)
    assert not room(link)
    link.ack(Ack(1, [], []), 1.0)
    assert room(link)
    link.send([entry(2, body=None)], 0.0)
    assert room(link)


def test_an_acknowledgement_says_what_is_held_refused_and_ended() -> None:
    link = source()
    link.send([entry(position) for position in (1, 2, 4, 5)], 0.0)
    found = link.ack(Ack(4, [2], [4]), 1.0)
    assert (found.held, found.refused, found.ended) == ((place(1),), (place(2),), (place(4),))
    assert (link.held, link.refused, link.in_flight) == (1, 2, 1)


def test_an_acknowledgement_that_comes_twice_is_none() -> None:
    link = source()
    link.send([entry(1)], 0.0)
    link.ack(Ack(1, [], []), 1.0)
    assert link.ack(Ack(1, [], []), 2.0).held == ()


def test_what_was_not_sent_cannot_be_acknowledged() -> None:
    link = source()
    link.send([entry(1)], 0.0)
    with pytest.raises(DecodeError, match="through: 2, but only 1 was sent"):
        link.ack(Ack(2, [], []), 1.0)


def test_only_what_was_sent_uncommitted_is_told_when_it_is() -> None:
    link = source()
    link.send([entry(1), entry(2, committed=True), entry(3)], 0.0)
    (told,) = link.committed([place(1), place(2), place(4)])
    assert [each.index for each in told.places] == [1]
    assert link.committed([place(1)]) == []
    link.forget(P, 3)
    assert link.committed([place(3)]) == []


def test_another_branch_at_the_place_is_not_told() -> None:
    link = source()
    link.send([entry(1)], 0.0)
    assert link.committed([Place(P, 1, b"other")]) == []


def test_a_message_has_so_many_places_at_most() -> None:
    link = source()
    link.send([entry(position) for position in range(1, MAX_ITEMS + 3)], 0.0)
    messages = link.committed([place(index) for index in range(1, MAX_ITEMS + 3)])
    assert [len(message.places) for message in messages] == [MAX_ITEMS, 2]


# --- the follower ---


class Openness:
    """What is not settled here."""

    def __init__(self, *keys: int) -> None:
        self.open = {(P, index) for index in keys}

    def __call__(self, key: Key) -> bool:
        return key in self.open


def replica(position: int, index: int | None = None) -> Copy:
    index = position if index is None else index
    return Copy(position, P, index, 1, Encoding.TEXT, "a", 0.0, b"x", f"p{index}".encode())


def follower(is_open: Openness, *, keeps_cursor: bool = True) -> FollowerLink:
    return FollowerLink("a", Cursor("log", 0), is_open, votes=True, keeps_cursor=keeps_cursor)


def take(link: FollowerLink, *verdicts: Verdict, first: int = 1) -> Ack:
    entries = tuple(replica(first + number) for number in range(len(verdicts)))
    store = link.store("link", entries, frozenset(), frozenset())
    ack, heard = link.stored(store, [Receipt(verdict, 1) for verdict in verdicts])
    assert [each.verdict for each in heard] == list(verdicts)
    return ack


def test_an_acknowledgement_tells_refused_and_ended_apart() -> None:
    link = follower(Openness())
    receipts = [
        Receipt(Verdict.NEW, 1),
        Receipt(Verdict.HELD, 2),
        Receipt(Verdict.REFUSED, is_sibling=True),
        Receipt(Verdict.CLOSED, is_sibling=True),
        Receipt(Verdict.CLOSED),  # the tombstone is before this one: it is no vote here, and may go
        Receipt(Verdict.PASSED),
    ]
    store = link.store("link", tuple(map(replica, range(1, 7))), frozenset(), frozenset())
    assert link.stored(store, receipts)[0] == Ack(6, [3], [4, 6])


def test_where_nothing_is_left_at_the_end_of_the_log_the_follower_is_there() -> None:
    link = follower(Openness())
    take(link, Verdict.NEW)
    link.passed(4)
    assert (link.undoubted(), link.cursor().position) == (4, 4)


def test_a_link_may_begin_before_the_cursor() -> None:
    link = FollowerLink("a", Cursor("log", 7), Openness(5), votes=True, keeps_cursor=True)
    link.source_appended = 9
    assert link.pruned(6) == 0
    assert link.pruned(9) == 2
    link = FollowerLink("a", Cursor("log", 7), Openness(5), votes=True, keeps_cursor=True)
    take(link, Verdict.HELD, first=5)
    assert link.cursor().position == 4  # not settled any more


def test_the_cursor_is_before_what_is_not_settled() -> None:
    is_open = Openness(2, 3)
    link = follower(is_open)
    take(link, *[Verdict.NEW] * 4)
    assert link.cursor() == Cursor("log", 1)
    is_open.open.discard((P, 2))
    assert link.cursor() == Cursor("log", 2)
    is_open.open.clear()
    assert link.cursor() == Cursor("log", 4)


def test_behind_what_stays_open_only_what_is_open_is_remembered() -> None:
    is_open = Openness(1, 30)
    link = follower(is_open)
    for first in range(1, 5 * LOOK_AGAIN, 10):
        take(link, *[Verdict.NEW, Verdict.PASSED] * 5, first=first)
        assert link.cursor() == Cursor("log", 0)
    assert len(link._unsettled) <= LOOK_AGAIN
    assert len(link._in_doubt) <= LOOK_AGAIN
    is_open.open.discard((P, 1))
    assert link.cursor() == Cursor("log", 29)
    is_open.open.clear()
    assert link.cursor() == Cursor("log", 5 * LOOK_AGAIN)


def test_so_it_is_for_what_was_refused_while_that_is_in_doubt() -> None:
    is_open = Openness(1, 2)
    link = follower(is_open)
    take(link, Verdict.NEW, Verdict.REFUSED, Verdict.NEW)
    assert (link.cursor().position, link.undoubted()) == (0, 1)
    is_open.open.discard((P, 2))
    assert (link.cursor().position, link.undoubted()) == (0, 3)


def test_a_stored_batch_carries_the_cursor_from_before_it() -> None:
    link = follower(Openness())
    assert link.store("link", (replica(1),), frozenset(), frozenset()).cursor == Cursor("log", 0)
    link = follower(Openness(), keeps_cursor=False)
    assert link.store("link", (replica(1),), frozenset(), frozenset()).cursor is None


def test_while_something_is_being_stored_what_comes_after_it_waits() -> None:
    link = follower(Openness())
    store = link.store("link", (replica(1),), frozenset(), frozenset())
    assert link.is_storing
    link.stored(store, [Receipt(Verdict.NEW, 1)])
    assert not link.is_storing


def test_an_entry_without_its_predecessor_is_a_gap() -> None:
    with pytest.raises(Gap, match="flashblock 1 of payload 0x01 came without its predecessor"):
        take(follower(Openness()), Verdict.OUT_OF_ORDER)


def test_a_body_that_was_left_out_and_is_not_here_has_to_come_again() -> None:
    with pytest.raises(BodyMissing, match="flashblock 1 of payload 0x01 came without its body"):
        take(follower(Openness()), Verdict.NEED_BODY)


def test_but_not_behind_one_that_was_refused() -> None:
    link = follower(Openness(1, 2))
    assert take(link, Verdict.REFUSED, Verdict.OUT_OF_ORDER) == Ack(2, [1, 2], [])
    assert link.undoubted() == 0


def test_refused_payloads_are_remembered_within_a_bound() -> None:
    link = follower(Openness())
    for number in range(MAX_REFUSED + 5):
        link._remember_refused(PayloadId(f"0x{number:x}"))
    assert len(link._refused) == MAX_REFUSED


def test_positions_that_retention_removed_are_missed_once() -> None:
    link = follower(Openness())
    link.source_appended = 7
    take(link, Verdict.NEW, Verdict.NEW)
    assert link.pruned(5) == 3
    assert link.pruned(5) == 0
    assert link.cursor() == Cursor("log", 5)
    with pytest.raises(DecodeError, match="8 is pruned, of a log that ends at 7"):
        link.pruned(8)


def test_what_a_branch_has_that_is_not_settled_is_known() -> None:
    link = follower(Openness(1, 2))
    take(link, Verdict.NEW, Verdict.REFUSED)
    assert link.has_unsettled(P, 2)
    assert not link.has_unsettled(P, 3)
    assert not link.has_unsettled(PayloadId("0x02"), 0)
