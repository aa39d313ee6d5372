"""What a subscriber notices: gaps, repetitions, the end."""

import pathlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.frames import PING, server_frame
from bench.messages import numbered
from bench.subscriber import Group, Subscriber
from bench.subscribers import read_arrivals, shares


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def group_of(connection: socket.socket) -> Group:
    """One subscriber on ``connection``."""
    group = Group("127.0.0.1", 1, "/ws", indices=10)
    subscriber = Subscriber(group)
    subscriber.socket = connection
    group.subscribers.append(subscriber)
    return group


def feed(subscriber: Subscriber, sequences: list[int]) -> None:
    subscriber.feed(memoryview(b"".join(server_frame(numbered(one, 0)) for one in sequences)), 1.0)


@pytest.mark.parametrize(
    ("received", "lost", "duplicated"),
    [
        ([0, 1, 2, 3], 0, 0),
        ([], 4, 0),
        ([1, 2, 3], 1, 0),
        ([0, 3], 2, 0),
        ([0, 1], 2, 0),
        ([0, 1, 1, 2, 3], 0, 1),
        ([0, 1, 2, 3, 4], 0, 0),
    ],
)
def test_gaps_and_repetitions_are_counted(
    pair: tuple[socket.socket, socket.socket], received: list[int], lost: int, duplicated: int
) -> None:
    (subscriber,) = group_of(pair[0]).subscribers
    feed(subscriber, received)
    assert (subscriber.lost(0, 3), subscriber.duplicated) == (lost, duplicated)
    assert [subscriber.has_had(number) for number in (0, 3)] == [received != [], max(received, default=0) >= 3]


def test_a_ping_is_answered(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    group_of(ours).subscribers[0].feed(memoryview(server_frame(b"hi", PING)), 1.0)
    assert theirs.recv(100) == b"\x8a\x82\0\0\0\0hi"


def test_what_arrived_is_handed_over_in_a_file(
    tmp_path: pathlib.Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    group = group_of(pair[0])
    feed(group.subscribers[0], [0, 1, 3])
    counts = group.finish(0, 4, tmp_path / "arrivals")
    assert counts == {"received": 3, "lost": 2, "duplicated": 0, "closed": 0}
    arrivals = read_arrivals(tmp_path / "arrivals", 3)
    assert [number for number, _ in arrivals] == [0, 1, 3]
    assert sorted(time for _, time in arrivals) == [time for _, time in arrivals]


def test_who_comes_back_asks_for_what_follows_its_last_message(pair: tuple[socket.socket, socket.socket]) -> None:
    (subscriber,) = group_of(pair[0]).subscribers
    assert subscriber.request().startswith(b"GET /ws HTTP/1.1")
    feed(subscriber, [10, 11])
    assert subscriber.request().startswith(b"GET /ws?payload_id=0x0000000000000002&flashblock_index=1 HTTP/1.1")


def test_a_refusal_is_told_and_what_comes_behind_a_101_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    (subscriber,) = group_of(pair[0]).subscribers
    assert subscriber.answer(memoryview(b"HTTP/1.1 429 Too Many")) is None
    assert subscriber.answer(memoryview(b" Requests\r\n\r\n")) == "HTTP/1.1 429 Too Many Requests"
    (other,) = group_of(pair[0]).subscribers
    rest = other.answer(memoryview(b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc"))
    assert isinstance(rest, memoryview)
    assert bytes(rest) == b"abc"
    assert other.streaming


def test_a_stuck_reader_is_not_asked_what_it_lost(
    tmp_path: pathlib.Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    group = group_of(pair[0])
    group.subscribers.append(Subscriber(group, stuck=True))
    feed(group.subscribers[0], [0, 1])
    assert group.finish(0, 1, tmp_path / "arrivals")["lost"] == 0


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_subscribers_are_shared_out_evenly(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert sum(found) == total
    assert max(found) - min(found) <= 1
