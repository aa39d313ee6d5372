"""The benches' own few bytes of the websocket protocol."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.frames import (
    CLOSE,
    PING,
    FrameReader,
    client_payload,
    client_pong,
    encoded_frame,
    handshake,
    server_frame,
    server_pong,
)
from bench.messages import ENCODINGS, numbered

Frame = tuple[str, int]
frames = st.lists(st.tuples(st.sampled_from(["message", "ping"]), st.integers(0, 3000)), max_size=8)


def encode(number: int, frame: Frame) -> bytes:
    kind, size = frame
    return server_frame(numbered(number, size)) if kind == "message" else server_frame(bytes(size % 126), PING)


def read(reader: FrameReader, data: bytes, cuts: list[int]) -> list[int]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found: list[int] = []
    for begin, end in itertools.pairwise(edges):
        found += reader.feed(memoryview(data)[begin:end])
    return found


@given(frames, st.lists(st.integers(0, 50_000), max_size=12))
def test_every_message_is_counted_once_however_the_bytes_are_cut(sent: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader()
    data = b"".join(encode(number, frame) for number, frame in enumerate(sent))
    assert read(reader, data, cuts) == [n for n, (kind, _) in enumerate(sent) if kind == "message"]
    assert reader.pings == [bytes(size % 126) for kind, size in sent if kind == "ping"]


@pytest.mark.parametrize("size", [0, 70_000])
def test_short_and_long_lengths_are_read_byte_by_byte(size: int) -> None:
    data = server_frame(numbered(5, size))
    assert read(FrameReader(), data, list(range(len(data)))) == [5]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_number_of_a_message_is_found_in_every_encoding(encoding: str) -> None:
    reader = FrameReader()
    data = b"".join(encoded_frame(encoding, numbered(number, 2000)) for number in (5, 6, 5))
    assert read(reader, data, [1, 40, 700, 2500]) == [5, 6, 5]


def test_a_close_is_seen() -> None:
    reader = FrameReader()
    assert reader.feed(memoryview(server_frame(b"\x03\xe9going away", CLOSE))) == []
    assert reader.closed


def test_a_message_that_is_none_of_ours_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        FrameReader().feed(memoryview(server_frame(b'{"hello":"world"}' * 5)))


def test_ping_and_pong() -> None:
    assert client_payload(client_pong(b"abc")) == (10, b"abc")
    assert client_payload(b"\x89\x83\x01\x02\x03\x04" + bytes([97 ^ 1, 98 ^ 2, 99 ^ 3])) == (9, b"abc")
    assert server_pong(b"abc") == b"\x8a\x03abc"


def test_the_handshake_names_path_and_host() -> None:
    assert handshake("127.0.0.1", "/ws?a=b").startswith(b"GET /ws?a=b HTTP/1.1\r\nHost: 127.0.0.1\r\n")
