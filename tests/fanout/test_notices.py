"""Control messages: their form, their board, and what each subscriber is told of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.payloads import PayloadState
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.notices import HISTORY, REPEATED, Board, Notice, Notices, fate, lagging, resumed_from
from tests.fanout.fakes import messages, payload_id
from tests.fanout.support import Stand

SOME_PLACE = AfterBlock(1, 0)


def said(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages(data)]


def board_of(*positions: int, size: int = HISTORY) -> Board:
    """A board whose notices are text frames of one byte, the number of each."""
    board = Board(size)
    for number, position in enumerate(positions, 1):
        board.post(Notice(position, bytes([number])))
    return board


def told(board: Board, position: int, *, resume: Resume = SOME_PLACE, start: int = 0) -> list[int]:
    notices = Notices(board, resume, start, 0)
    notices._own = b""
    return list(notices.take(position))


def test_the_fate_of_a_payload() -> None:
    landed = fate(payload_id(7), PayloadState.LANDED, 12, "0xab")
    dropped = fate(payload_id(8), PayloadState.DROPPED, None, None)
    assert said(landed + dropped) == [
        {"control": "landed", "payload_id": "0x0000000000000007", "block_number": 12, "block_hash": "0xab"},
        {"control": "dropped", "payload_id": "0x0000000000000008", "block_number": None},
    ]


@pytest.mark.parametrize(
    ("resume", "place"),
    [
        (CurrentPayload(), (None, None, None)),
        (AfterBlock(5), (None, 5, None)),
        (AfterBlock(5, 3), (None, 5, 3)),
        (AfterPayload(payload_id(9), 2), ("0x0000000000000009", None, 2)),
        (AfterPayload(payload_id(9), 2, 5), ("0x0000000000000009", 5, 2)),
    ],
)
def test_the_place_from_which_it_goes_on(resume: Resume, place: tuple[object, ...]) -> None:
    (found,) = said(resumed_from(resume, 40))
    assert (found["payload_id"], found["block_number"], found["flashblock_index"]) == place
    assert (found["control"], found["behind"]) == ("resumed-from", 40)


def test_lagging() -> None:
    assert said(lagging(800, 1500)) == [{"control": "lagging", "behind": 800, "closed_beyond": 1500}]


def test_a_notice_is_due_when_everything_before_it_was_handed_over_and_is_said_once() -> None:
    notices = Notices(board_of(3, 5, 5), AfterBlock(1, 0), 0, 0)
    assert said(notices.take(0))[0]["control"] == "resumed-from"
    assert [notices.take(position) for position in (2, 3, 4, 9, 9)] == [b"", b"\1", b"", b"\2\3", b""]


def test_one_that_is_not_due_holds_those_behind_it_back() -> None:
    assert told(board_of(9, 2), 5) == []
    assert told(board_of(9, 2), 9) == [1, 2]


def test_who_comes_without_a_place_hears_only_of_what_happens_from_now_on() -> None:
    board = board_of(1, 2)
    notices = Notices(board, CurrentPayload(), 2, 0)
    board.post(Notice(2, b"\3"))
    assert notices.take(5)[-1:] == b"\3"
    assert told(board_of(1, 2), 5, resume=CurrentPayload(), start=2) == []


def test_who_comes_back_hears_again_of_the_last_ones_before_its_place() -> None:
    positions = range(1, 31)
    assert told(board_of(*positions), 30, start=20) == list(range(20 - REPEATED, 31))
    assert told(board_of(*positions), 30, start=99) == list(range(31 - REPEATED, 31))
    assert told(board_of(*positions), 30) == list(range(1, 31))


def test_the_oldest_ones_go_when_the_board_is_full() -> None:
    board = board_of(*range(1, 6), size=3)
    assert told(board, 10) == [3, 4, 5]
    notices = Notices(board, AfterBlock(1, 0), 0, 0)
    notices.take(0)
    for number in (6, 7, 8, 9):
        board.post(Notice(number, bytes([number])))
    assert list(notices.take(10)) == [7, 8, 9]
    assert (board.newest, board.last_position) == (9, 9)
    assert Board().last_position == 0


@given(st.lists(st.integers(0, 12), max_size=30), st.lists(st.integers(0, 14), max_size=20), st.integers(1, 6))
def test_each_is_said_once_in_order_and_never_early(positions: list[int], marks: list[int], size: int) -> None:
    board, heard = Board(size), list[int]()
    notices = Notices(board, AfterBlock(1, 0), 0, 0)
    notices._own = b""
    for number, (position, mark) in enumerate(zip(positions, sorted(marks), strict=False), 1):
        board.post(Notice(position, bytes([number])))
        new = list(notices.take(mark))
        assert all(positions[each - 1] <= mark for each in new)
        heard += new
    assert heard == sorted(set(heard))


def test_lagging_is_said_once_until_it_has_caught_up() -> None:
    notices = Notices(Board(), CurrentPayload(), 0, 0)
    notices.take(0)
    for behind in (50, 51, 99):
        notices.lag(behind, 100)
    assert said(notices.take(0)) == [{"control": "lagging", "behind": 51, "closed_beyond": 100}]
    notices.lag(99, 100)
    assert notices.take(0) == b""
    notices.caught_up()
    notices.lag(70, 100)
    assert len(said(notices.take(0))) == 1


def test_a_slow_subscriber_is_warned_before_it_is_closed_and_only_if_it_wants_to_be() -> None:
    stand = Stand()  # 100 entries are allowed
    asks = stand.connect(choose=lambda size: 0, control=True)
    does_not = stand.connect(choose=lambda size: 0)
    stand.publish(*((1, index) for index in range(60)))
    for subscriber in (asks, does_not):
        subscriber.wire.choose = lambda size: size
        for _ in range(30):
            stand.write(subscriber)
    assert [notice["control"] for notice in asks.told] == ["resumed-from", "lagging"]
    assert does_not.told == []
    assert asks.received == does_not.received == [entry.body for entry in stand.log.entries]


def test_one_whose_socket_is_full_at_the_start_is_told_its_place_first() -> None:
    stand = Stand()
    full = stand.connect(choose=lambda size: 0, control=True)
    stand.publish((1, 0))
    stand.announce(b"", 0)
    assert full.wire.sent == b""
    stand.settle()
    assert [json.loads(message).get("control") for message in messages(full.wire.sent)] == ["resumed-from", None]


def test_nothing_is_told_to_one_that_is_being_closed() -> None:
    stand = Stand()
    leaving = stand.connect(choose=lambda size: 0, control=True)
    stand.hub.go_away(leaving.session, 0)
    stand.announce(fate(payload_id(1), PayloadState.LANDED, 1, None), 0)
    stand.settle()
    assert [notice["control"] for notice in leaving.told] == ["resumed-from"]  # it was on its way


def test_who_has_gone_is_not_told() -> None:
    stand = Stand()
    gone = stand.connect(control=True)
    stand.hub.detach(gone.session)
    assert stand.hub.listeners == set()
