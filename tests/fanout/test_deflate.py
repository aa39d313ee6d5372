"""permessage-deflate: what is agreed, against another implementation, and what a client's messages may do."""

import os
import random
import zlib
from pathlib import Path

import brotli
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from appliance.domain.flashblocks import Encoding
from appliance.fanout.deflate import WINDOW_BITS, compress, negotiate
from appliance.fanout.frames import Variant
from appliance.fanout.framesets import FrameSet
from appliance.fanout.inbound import MAX_MESSAGE_BYTES, Heard, Inbound, PingReceived, Violation
from appliance.fanout.service import FanoutSettings
from tests.fanout.fakes import MemoryLog, parse_frames
from tests.fanout.serving import Serving, close_of, serving

CAPTURE = Path(__file__).parents[1] / "data" / "flashblocks" / "base-sepolia-33439826.jsonl"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
BITS = f"server_max_window_bits={WINDOW_BITS}"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),  # browsers, Node's ws
        ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", f"{AGREED}; {BITS}"),  # Python
        ("permessage-deflate; server_max_window_bits=15", f"{AGREED}; {BITS}"),
        ('Permessage-Deflate ;  server_max_window_bits = "13" ; server_no_context_takeover', f"{AGREED}; {BITS}"),
        ("x-webkit-deflate-frame, permessage-deflate", AGREED),
        ("permessage-deflate; server_max_window_bits=9, permessage-deflate", AGREED),
        ("permessage-deflate; unheard_of, permessage-deflate; client_no_context_takeover", AGREED),
    ],
)
def test_the_first_offer_that_we_can_do_is_agreed(offer: str, answer: str) -> None:
    assert negotiate(offer) == answer


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=07",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate;",
        ",".join(["x"] * 20 + ["permessage-deflate"]),
    ],
)
def test_anything_else_is_declined(offer: str) -> None:
    assert negotiate(offer) is None


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["permessage-deflate", ";", ",", "=", '"', "server_max_window_bits", "12"])).map("".join)
)
def test_any_header_has_an_answer(header: str) -> None:
    assert (negotiate(header) or AGREED).startswith(AGREED)


def test_a_message_unfolds_by_itself_with_the_window_that_was_agreed() -> None:
    for line in CAPTURE.read_bytes().splitlines():
        packed = compress(line)
        assert len(packed) < 0.6 * len(line)
        assert zlib.decompressobj(-WINDOW_BITS).decompress(packed + b"\0\0\xff\xff") == line


@pytest.mark.parametrize("packed", [False, True])
def test_an_entry_has_one_compressed_frame(packed: bool) -> None:
    text = CAPTURE.read_bytes().splitlines()[0]
    log = MemoryLog()
    encoding = Encoding.BROTLI if packed else Encoding.TEXT
    item = FrameSet(log.append(1, 0, body=brotli.compress(text) if packed else text, encoding=encoding))
    assert item.ready(Variant.DEFLATE) is None
    made = item.make(Variant.DEFLATE)
    assert item.ready(Variant.DEFLATE) is made
    (frame,), rest = parse_frames(made)
    assert (frame.opcode, frame.rsv1, frame.text, rest) == (0x1, True, text, b"")


# What a client sends.


def masked(opcode: int, payload: bytes, *, rsv1: bool = False, final: bool = True) -> bytes:
    first = (0x80 if final else 0) | (0x40 if rsv1 else 0) | opcode
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((first,)) + length + b"\0\0\0\0" + payload


def raw_deflate(data: bytes, *, finish: bool = False) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    if finish:
        return packer.compress(data) + packer.flush() + b"\0"
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def heard(*chunks: bytes) -> list[Heard]:
    inbound = Inbound(0, deflate=True)
    return [event for chunk in chunks for event in inbound.feed(chunk, 0)]


PING = masked(0x9, b"after")


@pytest.mark.parametrize("finish", [False, True])
def test_a_compressed_message_is_taken_and_what_follows_is_read(finish: bool) -> None:
    data = masked(0x1, raw_deflate(b"hello" * 100, finish=finish), rsv1=True)
    assert heard(data + masked(0x1, b"plain") + data + PING) == [PingReceived(b"after")]


@given(st.binary(max_size=2000), st.integers(0, 2**32), st.booleans())
def test_messages_in_any_fragments_with_controls_between_and_in_any_pieces(
    data: bytes, seed: int, compressed: bool
) -> None:
    rng = random.Random(seed)
    payload = raw_deflate(data) if compressed else data
    cuts = sorted(rng.randint(0, len(payload)) for _ in range(rng.randint(0, 3)))
    parts = [payload[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    stream = b""
    for number, part in enumerate(parts):
        opcode, final = 0x2 if number == 0 else 0x0, number == len(parts) - 1
        stream += masked(opcode, part, rsv1=compressed and number == 0, final=final) + masked(0x9, b"between")
    stream += masked(0x2, raw_deflate(b"again"), rsv1=True) + PING
    step = rng.randint(1, 9)
    found = heard(*(stream[at : at + step] for at in range(0, len(stream), step)))
    assert found == [PingReceived(b"between")] * len(parts) + [PingReceived(b"after")]


def test_a_bomb_is_closed_with_1009_before_it_has_unfolded() -> None:
    bomb = raw_deflate(bytes(50 * 2**20))
    stream = masked(0x2, bomb[:4000], rsv1=True, final=False) + masked(0x0, bomb[4000:8000], final=False)
    inbound = Inbound(0, deflate=True)
    taken: list[Heard] = []
    read = 0
    while not taken:
        taken, read = inbound.feed(stream[read : read + 512], 0), read + 512
    assert taken == [Violation(1009, f"at most {MAX_MESSAGE_BYTES} bytes are taken")]
    assert read <= 1024
    assert inbound.feed(stream[read:], 0) == []


def test_a_message_of_exactly_the_bound_is_taken() -> None:
    exact = masked(0x2, raw_deflate(bytes(MAX_MESSAGE_BYTES)), rsv1=True)
    assert heard(exact + exact + PING) == [PingReceived(b"after")]
    (violation,) = heard(masked(0x2, raw_deflate(bytes(MAX_MESSAGE_BYTES + 1)), rsv1=True))
    assert isinstance(violation, Violation)
    assert violation.code == 1009


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (masked(0x2, b"\xff\xff\xff", rsv1=True), 1007),
        (masked(0x1, raw_deflate(b"\xff\xfe"), rsv1=True), 1007),
        (masked(0x9, b"x", rsv1=True), 1002),
        (masked(0x2, b"", rsv1=True, final=False) + masked(0x0, b"", rsv1=True), 1002),
        (masked(0x2, b"x", final=False) + masked(0x2, raw_deflate(b"x"), rsv1=True), 1002),
    ],
)
def test_what_is_not_compressed_as_agreed_is_a_violation(stream: bytes, code: int) -> None:
    (violation,) = heard(stream)
    assert isinstance(violation, Violation)
    assert violation.code == code


def test_without_the_extension_the_bit_is_a_violation() -> None:
    (violation,) = Inbound(0).feed(masked(0x2, raw_deflate(b"x"), rsv1=True), 0)
    assert isinstance(violation, Violation)
    assert violation.code == 1002


@given(st.binary(max_size=300))
def test_garbage_is_no_error(data: bytes) -> None:
    heard(masked(0x2, data[:120], rsv1=True), data)


# Over a socket, with the protocol of another library on the other side.


async def converse(server: Serving, target: str, count: int) -> tuple[list[bytes], ClientProtocol, bytes]:
    """The messages, the protocol and the bytes that came, as Python's websockets reads them."""
    offers = [ClientPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12)]
    protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{server.port}{target}"), extensions=offers)
    protocol.send_request(protocol.connect())
    client = await server.client()
    await client.stream.send_all(b"".join(protocol.data_to_send()))
    found, raw = list[bytes](), b""
    while len(found) < count:
        data = await client._read(65536)
        raw += data
        protocol.receive_data(data)
        found += [bytes(event.data) for event in protocol.events_received() if isinstance(event, Frame)]
    protocol.send_text(os.urandom(400).hex().encode())
    protocol.send_ping(b"still well?")
    await client.stream.send_all(b"".join(protocol.data_to_send()))
    pongs = list[bytes]()
    while not pongs:
        protocol.receive_data(await client._read(65536))
        events = [event for event in protocol.events_received() if isinstance(event, Frame)]
        pongs = [bytes(event.data) for event in events if event.opcode is Opcode.PONG]
    assert pongs == [b"still well?"]
    return found, protocol, raw


async def test_a_client_that_offers_it_gets_the_same_stream_in_fewer_bytes() -> None:
    log = MemoryLog()
    for index, line in enumerate(CAPTURE.read_bytes().splitlines()):
        log.append(1, index, body=line)
    async with serving(log) as server:
        bodies = [entry.body for entry in log.entries]
        with trio.fail_after(60):
            found, protocol, raw = await converse(server, "/ws", len(bodies))
            assert found == bodies
            assert [extension.name for extension in protocol.extensions] == ["permessage-deflate"]
            assert len(raw) < 0.5 * sum(map(len, bodies))
            await server.until("at_head", {"text": 0, "brotli": 0, "deflate": 1})
            found, protocol, _ = await converse(server, "/ws?block_number=1&flashblock_index=4&encoding=text", 6)
            assert (found, protocol.extensions) == (bodies[5:], [])
            _, protocol, _ = await converse(server, "/ws?encoding=brotli", 1)
            assert protocol.extensions == []


async def test_an_operator_can_turn_it_off() -> None:
    log = MemoryLog()
    log.append(1, 0)
    async with serving(log, FanoutSettings(deflate=False)) as server:
        client = await server.client()
        _, headers, _ = await client.request(Sec_WebSocket_Extensions="permessage-deflate")
        assert "sec-websocket-extensions" not in headers
        assert not (await client.frames(1))[0].rsv1


async def test_a_bomb_over_a_socket_is_closed_and_disturbs_nobody() -> None:
    log = MemoryLog()
    async with serving(log) as server:
        hostile, other = await server.client(), await server.client()
        _, headers, _ = await hostile.request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
        assert headers["sec-websocket-extensions"] == AGREED
        await other.request()
        await hostile.stream.send_all(masked(0x2, raw_deflate(bytes(10**7))[:9000], rsv1=True))
        (close,) = await hostile.frames(1)
        assert close_of(close)[0] == 1009
        body = log.append(1, 0).body
        assert (await other.frames(1))[0].payload == body
