"""What a subscriber notices: gaps, repetitions, the end."""

import pathlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.frames import PING, server_frame
from bench.messages import numbered
from bench.receiver import Group, Subscriber
from bench.subscribers import read_arrivals, shares


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def feed(subscriber: Subscriber, sequences: list[int]) -> None:
    subscriber.feed(memoryview(b"".join(server_frame(numbered(one, 0)) for one in sequences)))


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
    subscriber = Subscriber(pair[0], Group(), 10)
    feed(subscriber, received)
    assert (subscriber.lost(0, 3), subscriber.duplicated) == (lost, duplicated)


def test_a_ping_is_answered(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    Subscriber(ours, Group(), 10).feed(memoryview(server_frame(b"hi", PING)))
    assert theirs.recv(100) == b"\x8a\x82\0\0\0\0hi"


def test_what_arrived_is_handed_over_in_a_file(
    tmp_path: pathlib.Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    group = Group()
    group.subscribers.append(Subscriber(pair[0], group, 10))
    feed(group.subscribers[0], [0, 1, 3])
    counts = group.finish(0, 4, tmp_path / "arrivals")
    assert counts == {"received": 3, "lost": 2, "duplicated": 0, "closed": 0}
    arrivals = read_arrivals(tmp_path / "arrivals", 3)
    assert [number for number, _ in arrivals] == [0, 1, 3]
    assert sorted(time for _, time in arrivals) == [time for _, time in arrivals]


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_subscribers_are_shared_out_evenly(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert sum(found) == total
    assert max(found) - min(found) <= 1
