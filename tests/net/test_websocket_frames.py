"""What a server sends goes on unchanged, the head alone and then a few frames at a time."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.websocket_frames import FRAMES_AT_A_TIME, BadStart, FrameGate

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(payload: bytes, first: int = 0x82, *, masked: bool = False) -> bytes:
    size, flag = len(payload), 0x80 if masked else 0
    if size < 126:
        header = bytes([first, flag | size])
    elif size < 65536:
        header = bytes([first, flag | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([first, flag | 127]) + size.to_bytes(8, "big")
    return header + (b"mask" if masked else b"") + payload


def parts_of(reads: list[bytes]) -> list[bytes]:
    gate, parts = FrameGate(), []
    for data in reads:
        gate.put(data)
        while part := gate.take():
            parts.append(part)
    return parts


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(places) if begin < end]


SIZES = st.lists(st.tuples(st.integers(0, 200) | st.just(70_000), st.booleans()), max_size=80)


@given(SIZES, st.lists(st.integers(0, 2000), max_size=12), st.sampled_from([HEAD, HEAD.replace(b"\r", b"")]))
def test_however_it_is_split_it_goes_on_unchanged(sizes: list[tuple[int, bool]], cuts: list[int], head: bytes) -> None:
    frames = [frame(b"x" * size, masked=masked) for size, masked in sizes]
    data = head + b"".join(frames)
    parts = parts_of(split(data, cuts))
    assert b"".join(parts) == data
    ends, at = {len(head)}, len(head)
    for each in frames:
        at += len(each)
        ends.add(at)
    passed = 0
    for part in parts:
        within = [end for end in ends if passed < end <= passed + len(part)]
        assert len(within) <= FRAMES_AT_A_TIME + 1  # the one that had begun before, and so many
        passed += len(part)
        assert passed == len(head) or not passed - len(part) < len(head) < passed, "the head goes alone"


def test_frames_are_counted_once() -> None:
    gate = FrameGate()
    gate.put(HEAD)
    assert gate.take() == HEAD
    for byte in frame(b"abc") + frame(b"x" * 300) + frame(b"", 0x8A):
        gate.put(bytes([byte]))
        assert gate.take() == bytes([byte])
        assert gate.take() == b""
    assert gate.frames == 3


def test_a_read_full_of_empty_frames_comes_in_small_parts() -> None:
    parts = parts_of([HEAD + b"\x8a\x00" * 10_000])
    assert max(map(len, parts[1:])) == 2 * FRAMES_AT_A_TIME


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_informational_answer_is_refused(status: bytes) -> None:
    """Its end is not that of the handshake, and what comes next would be taken for frames."""
    for data in (b"HTTP/1.1 " + status + b"\r\n\r\n" + HEAD, b"HTTP/1.1 " + status[:3]):
        gate = FrameGate()
        gate.put(data)
        with pytest.raises(BadStart, match="expected the status 101"):
            gate.take()


def test_a_refusal_goes_on_as_it_came() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"
    assert b"".join(parts_of([answer])) == answer


def test_a_head_without_an_end_is_refused() -> None:
    gate = FrameGate()
    for _ in range(64):
        gate.put(b"x: y\r\n" * 170)
        gate.take()
    gate.put(b"x: y\r\n" * 170)
    with pytest.raises(BadStart):
        gate.take()
