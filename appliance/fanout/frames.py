"""Websocket frames, encoded once per entry and variant and shared by all subscribers (RFC 6455, section 5).

A server's frames are not masked, so the same bytes go to everyone. wsproto's encoder copies a payload three
times and keeps state per connection; here a frame is a header before the bytes that came from the log.
"""

import struct
from collections.abc import Awaitable, Callable
from enum import IntEnum, StrEnum
from typing import Final

import brotli

from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout import deflate
from appliance.wire.flashblock import plain_text

RunSync = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Runs a CPU-bound function away from the event loop: `trio.to_thread.run_sync`, or inline in tests."""

BROTLI_QUALITY = 5  # 20 KB of flashblock JSON: under a millisecond, within 10 % of the size that 11 reaches


class Opcode(IntEnum):
    """The frame types that a server sends."""

    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class Variant(StrEnum):
    """What a subscriber gets; each has a frame of its own."""

    TEXT = "text"  # the JSON in a text frame
    BROTLI = "brotli"  # brotli-compressed JSON in a binary frame
    DEFLATE = "deflate"  # the JSON in a text frame that permessage-deflate compresses


_FINAL: Final = 0x80
_RSV1: Final = 0x40


def frame(opcode: Opcode, payload: bytes, *, rsv1: bool = False) -> bytes:
    """One whole, final, unmasked frame. ``rsv1`` says that permessage-deflate compressed it."""
    size = len(payload)
    first = _FINAL | opcode | (_RSV1 if rsv1 else 0)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


PING: Final = frame(Opcode.PING, b"")


def pong(payload: bytes) -> bytes:
    """The answer to a ping: its payload, at most 125 bytes."""
    return frame(Opcode.PONG, payload)


LOGGED_BYTES: Final = 64 * 1024 * 1024
"""Far above any flashblock: what the log holds was bounded when it came in, perhaps by another version."""

MAX_REASON_BYTES = 123  # a control frame has 125 at most, the code takes two (RFC 6455, 5.5)


def close(code: int | None, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes that fit, at a character. No code: an empty one."""
    if code is None:
        return frame(Opcode.CLOSE, b"")
    text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
    return frame(Opcode.CLOSE, struct.pack("!H", code) + text)


NATIVE = {Encoding.TEXT: Variant.TEXT, Encoding.BROTLI: Variant.BROTLI}


def _encode_text(entry: Entry) -> bytes:
    return frame(Opcode.TEXT, plain_text(entry.body, entry.encoding, max_bytes=LOGGED_BYTES))


def _encode_brotli(entry: Entry) -> bytes:
    if entry.encoding is Encoding.BROTLI:
        return frame(Opcode.BINARY, entry.body)
    return frame(Opcode.BINARY, brotli.compress(entry.body, quality=BROTLI_QUALITY))


def _encode_deflate(entry: Entry) -> bytes:
    text = plain_text(entry.body, entry.encoding, max_bytes=LOGGED_BYTES)
    return frame(Opcode.TEXT, deflate.compress(text), rsv1=True)


ENCODERS: dict[Variant, Callable[[Entry], bytes]] = {
    Variant.TEXT: _encode_text,
    Variant.BROTLI: _encode_brotli,
    Variant.DEFLATE: _encode_deflate,
}
