"""What subscribers send."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from appliance.fanout.inbound import (
    FLOOD_BURST_BYTES,
    FLOOD_BYTES_PER_S,
    MAX_MESSAGE_BYTES,
    CloseReceived,
    Heard,
    Inbound,
    PingReceived,
    PongReceived,
    Violation,
)


def client(*events: Event) -> bytes:
    """The bytes in which a client sends these."""
    connection = Connection(ConnectionType.CLIENT)
    return b"".join(bytes(connection.send(event)) for event in events)


def heard(data: bytes) -> list[Heard]:
    return Inbound(now=0).feed(data, now=0)


def in_pieces(data: bytes, sizes: Iterable[int]) -> list[Heard]:
    inbound, found, at = Inbound(now=0), list[Heard](), 0
    for size in sizes:
        found += inbound.feed(data[at : at + size], now=0)
        at += size
    return found + inbound.feed(data[at:], now=0)


def test_a_ping_is_to_be_answered_with_its_payload() -> None:
    assert heard(client(Ping(b"abc"))) == [PingReceived(b"abc")]


def test_a_pong_is_a_sign_of_life() -> None:
    assert heard(client(Pong(b""))) == [PongReceived()]


def test_a_close_carries_its_code() -> None:
    assert heard(client(CloseConnection(code=1000, reason="bye"))) == [CloseReceived(1000)]


def test_a_close_may_carry_no_code() -> None:
    assert heard(b"\x88\x80mask") == [CloseReceived(None)]


def test_messages_are_ignored() -> None:
    chatter = client(TextMessage("subscribe please"), BytesMessage(b"\0" * 1000), Ping(b"x"))
    assert heard(chatter) == [PingReceived(b"x")]


def test_many_small_messages_in_a_row_are_not_one_large_one() -> None:
    inbound = Inbound(now=0)
    for second in range(20):
        assert inbound.feed(client(TextMessage("x" * 4000)), now=second * 2.0) == []


def test_a_fragmented_message_is_ignored_with_a_ping_in_between() -> None:
    pieces = client(TextMessage("a", message_finished=False), Ping(b"p"), TextMessage("b"))
    assert heard(pieces) == [PingReceived(b"p")]


def test_a_message_over_the_limit_is_a_violation() -> None:
    (violation,) = heard(client(BytesMessage(b"x" * (MAX_MESSAGE_BYTES + 1))))
    assert violation == Violation(1009, "at most 16384 bytes are taken")


def test_the_limit_holds_for_the_sum_of_the_fragments() -> None:
    half = "x" * (MAX_MESSAGE_BYTES // 2 + 1)
    (violation,) = heard(client(TextMessage(half, message_finished=False), TextMessage(half)))
    assert isinstance(violation, Violation)
    assert violation.code == 1009


def test_a_message_of_an_absurd_announced_size_is_not_waited_for() -> None:
    header = b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask"
    inbound = Inbound(now=0)
    assert inbound.feed(header, now=0) == []
    (violation,) = inbound.feed(b"x" * (MAX_MESSAGE_BYTES + 1), now=0)
    assert violation == Violation(1009, "at most 16384 bytes are taken")


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1002),  # reserved bits
        (b"\x81\x05hello", 1002),  # not masked
        (b"\x83\x80mask", 1002),  # an opcode that does not exist
        (b"\x09\x80mask", 1002),  # a fragmented ping
        (b"\x89\xfe\x00\x80mask", 1002),  # a ping of more than 125 bytes
        (b"\x80\x80mask", 1002),  # a continuation of nothing
        (b"\x88\x81\0\0\0\0\x03", 1002),  # a close with half a code
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # a close with a code that is never sent
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # text that is not UTF-8
    ],
)
def test_what_is_not_a_frame_is_a_violation(garbage: bytes, code: int) -> None:
    (violation,) = heard(garbage)
    assert isinstance(violation, Violation)
    assert violation.code == code
    assert violation.reason


def test_nothing_is_read_after_the_end() -> None:
    inbound = Inbound(now=0)
    assert inbound.feed(client(CloseConnection(code=1000)) + client(Ping(b"x")), now=0) == [CloseReceived(1000)]
    assert inbound.feed(client(Ping(b"x")), now=0) == []


def test_what_came_before_a_violation_still_counts() -> None:
    assert heard(client(Ping(b"x")) + b"\xff\xff") == [
        PingReceived(b"x"),
        Violation(1002, "Invalid opcode 0xf"),
    ]


def test_a_flood_ends_the_connection() -> None:
    inbound, ping = Inbound(now=0), client(Ping(b"x" * 100))
    for _ in range(FLOOD_BURST_BYTES // len(ping)):
        assert inbound.feed(ping, now=0) == [PingReceived(b"x" * 100)]
    assert inbound.feed(ping, now=0) == [Violation(1008, "too many messages")]
    assert inbound.feed(ping, now=1e6) == []


def test_a_steady_stream_of_pings_is_no_flood() -> None:
    inbound, ping = Inbound(now=0), client(Ping(b"x" * 100))
    step = len(ping) / FLOOD_BYTES_PER_S
    for number in range(5 * FLOOD_BURST_BYTES // len(ping)):
        assert inbound.feed(ping, now=number * step) == [PingReceived(b"x" * 100)]


@given(st.lists(st.integers(1, 40), max_size=30), st.randoms(use_true_random=False))
def test_events_do_not_depend_on_how_the_bytes_arrive(sizes: list[int], rng: random.Random) -> None:
    events: list[Event] = [Ping(b"1"), TextMessage("hällo"), Pong(b""), BytesMessage(b"\0"), Ping(b"2" * 125)]
    rng.shuffle(events)
    data = client(*events, CloseConnection(code=4000))
    assert in_pieces(data, sizes) == heard(data)


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=10))
def test_any_bytes_end_in_events_and_at_most_one_end(data: bytes, sizes: list[int]) -> None:
    found = in_pieces(data, sizes)
    ends = [index for index, event in enumerate(found) if isinstance(event, CloseReceived | Violation)]
    assert ends in ([], [len(found) - 1])
