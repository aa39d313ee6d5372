"""Websocket frames, encoded once per entry and variant and shared by all subscribers (RFC 6455, section 5).

A server's frames are not masked, so the same bytes go to everyone. wsproto's encoder copies a payload three
times and keeps state per connection; here a frame is a header before the bytes that came from the log.
"""

import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum, StrEnum
from typing import Final

import brotli
import trio

from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout.marks import Mark
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
    """What a subscriber asked for; each has a frame of its own. The values are those of `?encoding=`."""

    TEXT = "text"  # the JSON in a text frame
    BROTLI = "brotli"  # brotli-compressed JSON in a binary frame


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """One whole, final, unmasked frame."""
    size = len(payload)
    first = 0x80 | opcode
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


_NATIVE = {Encoding.TEXT: Variant.TEXT, Encoding.BROTLI: Variant.BROTLI}


def _encode_text(entry: Entry) -> bytes:
    return frame(Opcode.TEXT, plain_text(entry.body, entry.encoding, max_bytes=LOGGED_BYTES))


def _encode_brotli(entry: Entry) -> bytes:
    if entry.encoding is Encoding.BROTLI:
        return frame(Opcode.BINARY, entry.body)
    return frame(Opcode.BINARY, brotli.compress(entry.body, quality=BROTLI_QUALITY))


# permessage-deflate without context takeover becomes a third line here.
_ENCODERS: dict[Variant, Callable[[Entry], bytes]] = {
    Variant.TEXT: _encode_text,
    Variant.BROTLI: _encode_brotli,
}


class FrameSet:
    """One log entry and its frames, made when first asked for."""

    __slots__ = ("_frames", "_making", "entry", "mark")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.mark = Mark.of(entry)
        self._frames: dict[Variant, bytes] = {}
        self._making: trio.Lock | None = None

    def ready(self, variant: Variant) -> bytes | None:
        """The frame when it is there or costs no more than a copy, else None: then `prepare` it."""
        ready = self._frames.get(variant)
        if ready is None and _NATIVE[self.entry.encoding] is variant:
            return self.make(variant)
        return ready

    def make(self, variant: Variant) -> bytes:
        """Encode now: compression and decompression of 20 KB take up to a millisecond."""
        made = self._frames[variant] = _ENCODERS[variant](self.entry)
        return made

    async def prepare(self, variant: Variant, run_sync: RunSync) -> bytes:
        """The frame; compression and decompression happen in a thread, once for all who ask together."""
        ready = self.ready(variant)
        if ready is not None:
            return ready
        if self._making is None:
            self._making = trio.Lock()
        async with self._making:
            ready = self._frames.get(variant)
            return ready if ready is not None else await run_sync(lambda: self.make(variant))

    @property
    def cost(self) -> int:
        """Bytes that it may keep: the body, and a frame of each variant of about that size."""
        return len(self.entry.body) * (1 + len(Variant))


class FrameCache:
    """The frame sets in use lately, so that subscribers near each other in the log share theirs.

    Bounded by count and by bytes; when full the least recently used set goes, and is made again from the
    log if someone still needs it.
    """

    def __init__(self, max_entries: int = 256, max_bytes: int = 16 * 2**20) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._sets: OrderedDict[int, FrameSet] = OrderedDict()
        self._cost = 0

    def get(self, entry: Entry) -> FrameSet:
        """The set for an entry. Bodies are immutable, so the position identifies it."""
        found = self._sets.get(entry.position)
        if found is None:
            return self._add(FrameSet(entry))
        self._sets.move_to_end(entry.position)
        return found

    def get_all(self, entries: Iterable[Entry]) -> list[FrameSet]:
        """The sets for several entries, in their order."""
        return [self.get(entry) for entry in entries]

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def cost(self) -> int:
        """Bytes that all sets may keep."""
        return self._cost

    def _add(self, added: FrameSet) -> FrameSet:
        self._sets[added.mark.position] = added
        self._cost += added.cost
        while len(self._sets) > 1 and (len(self._sets) > self._max_entries or self._cost > self._max_bytes):
            _, oldest = self._sets.popitem(last=False)
            self._cost -= oldest.cost
        return added
