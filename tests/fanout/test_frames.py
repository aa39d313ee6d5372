"""Frames as a client reads them, made once and shared."""

import struct

import brotli
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout import frames
from appliance.fanout.frames import Opcode, Variant, frame
from appliance.fanout.framesets import FrameCache, FrameSet
from tests.fanout.fakes import MemoryLog, parse_frames, payload_id

TEXT = b'{"payload_id":"0x01","index":0}'


def entry(position: int = 1, body: bytes = TEXT, encoding: Encoding = Encoding.TEXT) -> Entry:
    return Entry(position, payload_id(1), position - 1, 7, body, encoding)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_of_any_size_is_what_another_implementation_reads(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame(Opcode.BINARY, b"x" * size))
    found = b"".join(bytes(event.data) for event in client.events() if isinstance(event, BytesMessage))
    assert found == b"x" * size


@given(st.binary(max_size=300))
def test_a_frame_is_its_header_and_the_payload(payload: bytes) -> None:
    found, rest = parse_frames(frame(Opcode.TEXT, payload))
    assert [(item.opcode, item.payload) for item in found] == [(1, payload)]
    assert rest == b""


def test_control_frames_are_understood() -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.PING + frames.pong(b"you asked") + frames.close(1001, "going away"))
    assert list(client.events()) == [
        Ping(payload=b""),
        Pong(payload=b"you asked"),
        CloseConnection(code=1001, reason="going away"),
    ]


def test_a_close_reason_is_cut_at_a_character() -> None:
    (found,), _ = parse_frames(frames.close(1013, "ü" * 100))
    assert struct.unpack("!H", found.payload[:2]) == (1013,)
    assert found.payload[2:].decode() == "ü" * 61


def test_a_close_without_a_code_is_empty() -> None:
    assert frames.close(None, "ignored") == b"\x88\x00"


def test_bytes_in_the_variant_that_came_are_sent_unchanged() -> None:
    compressed = brotli.compress(TEXT)
    assert FrameSet(entry()).ready(Variant.TEXT) == frame(Opcode.TEXT, TEXT)
    packed = FrameSet(entry(body=compressed, encoding=Encoding.BROTLI))
    assert packed.ready(Variant.BROTLI) == frame(Opcode.BINARY, compressed)


def test_a_variant_that_takes_work_is_not_made_in_passing() -> None:
    item = FrameSet(entry())
    assert item.ready(Variant.BROTLI) is None
    made = item.make(Variant.BROTLI)
    assert item.ready(Variant.BROTLI) is made


def test_text_is_compressed_for_brotli_subscribers() -> None:
    (found,), _ = parse_frames(FrameSet(entry()).make(Variant.BROTLI))
    assert found.opcode == Opcode.BINARY
    assert brotli.decompress(found.payload) == TEXT


def test_brotli_is_plain_json_for_text_subscribers() -> None:
    packed = FrameSet(entry(body=brotli.compress(TEXT), encoding=Encoding.BROTLI))
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(packed.make(Variant.TEXT))
    (event,) = client.events()
    assert isinstance(event, TextMessage)
    assert event.data == TEXT.decode()


async def test_all_who_wait_for_a_variant_share_one_conversion() -> None:
    item = FrameSet(entry())
    conversions: list[int] = []
    got: list[bytes] = []

    async def run_sync(work: object) -> bytes:
        conversions.append(1)
        await trio.testing.wait_all_tasks_blocked()
        assert callable(work)
        return bytes(work())

    async def ask() -> None:
        got.append(await item.prepare(Variant.BROTLI, run_sync))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert conversions == [1]
    assert len(got) == 5
    assert all(found is got[0] or found == got[0] for found in got)


async def test_a_conversion_that_is_cancelled_is_made_by_the_next_one() -> None:
    item = FrameSet(entry())

    async def never(work: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError(work)

    async def at_once(work: object) -> bytes:
        assert callable(work)
        return bytes(work())

    with trio.CancelScope() as scope:
        scope.cancel()
        await item.prepare(Variant.BROTLI, never)
    assert await item.prepare(Variant.BROTLI, at_once) == item.ready(Variant.BROTLI)


def test_the_cache_gives_the_same_set_for_the_same_position() -> None:
    cache = FrameCache()
    assert cache.get(entry()) is cache.get(entry())


def test_the_cache_lets_the_least_recently_used_go_by_count() -> None:
    cache = FrameCache(max_entries=2)
    first, second = cache.get(entry(1)), cache.get(entry(2))
    assert cache.get(entry(1)) is first
    cache.get(entry(3))
    assert len(cache) == 2
    assert cache.get(entry(1)) is first
    assert cache.get(entry(2)) is not second


def test_the_cache_is_bounded_by_bytes_but_always_holds_one() -> None:
    cache = FrameCache(max_bytes=1200)
    for position in range(1, 20):
        cache.get(entry(position, b"x" * 100))
        assert cache.cost <= 1200
    cache.get(entry(20, b"x" * 5000))
    assert len(cache) == 1
    cache.get(entry(21, b"x"))
    assert (len(cache), cache.cost) == (1, 2 + len(Variant))


def test_several_entries_keep_their_order() -> None:
    log = MemoryLog()
    made = [log.append(1, index) for index in range(3)]
    assert [item.entry for item in FrameCache().get_all(made)] == made


def test_a_set_knows_its_place() -> None:
    mark = FrameSet(entry(5)).mark
    assert (mark.position, mark.key) == (5, (7, 4))
