"""A log in memory, a socket that takes what it likes, and the subscriber that reads from it."""

import random
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from appliance.domain.errors import LogError, PrunedError
from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, Located, Resume


def payload_id(number: int) -> PayloadId:
    return PayloadId(f"0x{number:016x}")


class MemoryLog:
    """The read side of the flashblock log as fan-out sees it. Memory reaches back ``tail`` entries."""

    def __init__(self, tail: int = 1_000_000) -> None:
        self.entries: list[Entry] = []
        self.tail = tail
        self.reads = 0
        self.lookups = 0
        self.broken = False
        self._pruned: Entry | None = None
        self._highest_pruned: tuple[int, int] | None = None
        self._last_position = 0
        self._moved = trio.Event()

    # The writing side of the fake.

    def append(
        self, block_number: int, index: int, *, body: bytes | None = None, hole: int = 0, **fields: object
    ) -> Entry:
        """Add an entry; ``hole`` positions are left out before it, as a rolled-back insert would."""
        self._last_position += 1 + hole
        text = body if body is not None else f'{{"n":{block_number},"index":{index}}}'.encode()
        encoding = fields.get("encoding", Encoding.TEXT)
        assert isinstance(encoding, Encoding)
        payload = fields.get("payload", block_number)
        assert isinstance(payload, int)
        entry = Entry(self._last_position, payload_id(payload), index, block_number, text, encoding)
        self.entries.append(entry)
        moved, self._moved = self._moved, trio.Event()
        moved.set()
        return entry

    def prune(self, count: int) -> None:
        """Retention: the oldest ``count`` entries go."""
        if count:
            self._pruned = self.entries[count - 1]
            keys = [entry.key for entry in self.entries[:count]]
            self._highest_pruned = max(keys if self._highest_pruned is None else [*keys, self._highest_pruned])
            del self.entries[:count]

    # What fan-out uses.

    @property
    def head(self) -> int:
        return self._last_position

    async def wait_past(self, position: int) -> None:
        await trio.lowlevel.checkpoint()
        while self.head <= position:
            await self._moved.wait()

    def recent(self, after: int, limit: int) -> Sequence[Entry] | None:
        floor = max(0, len(self.entries) - self.tail)
        start = bisect_right(self.entries, after, key=lambda entry: entry.position)
        lowest = self.entries[floor - 1].position if floor else self._pruned_position
        return self.entries[start : start + limit] if after >= lowest else None

    async def read(self, after: int, *, limit: int, max_bytes: int) -> Sequence[Entry]:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise LogError("read: disk on fire")
        if after < self._pruned_position:
            raise self._gone()
        start = bisect_right(self.entries, after, key=lambda entry: entry.position)
        return self.entries[start : start + limit]

    async def locate(self, resume: Resume) -> Located:
        self.lookups += 1
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise LogError("read: disk on fire")
        return self.place_of(resume)

    def place_of(self, resume: Resume) -> Located:
        if isinstance(resume, AfterBlock):
            return self._after_block((resume.block_number, resume.index))
        if isinstance(resume, AfterPayload):
            return Located(self._after_payload(resume))
        if not self.entries:
            return Located(self.head)
        current = self.entries[-1].payload_id
        return Located(next(entry.position - 1 for entry in self.entries if entry.payload_id == current))

    @property
    def _pruned_position(self) -> int:
        return self._pruned.position if self._pruned else 0

    def _gone(self) -> PrunedError:
        return PrunedError("not held any more", self.entries[0].key if self.entries else None)

    def _after_block(self, key: tuple[int, int]) -> Located:
        if self._highest_pruned is not None and key <= self._highest_pruned:
            raise self._gone()
        for entry in self.entries:
            if entry.key == key:
                return Located(entry.position)
        beyond = [entry.position for entry in self.entries if entry.key > key]
        return Located(beyond[0] - 1) if beyond else Located(self.head, skip_through=key)

    def _after_payload(self, resume: AfterPayload) -> int:
        own = [entry for entry in self.entries if entry.payload_id == resume.payload_id]
        if not own:
            raise self._gone()
        return max([own[0].position - 1, *(entry.position for entry in own if entry.index <= resume.index)])


class FakeWire:
    """A non-blocking socket: ``choose(size)`` says how many bytes of a send it takes; 0 would block."""

    def __init__(self, choose: Callable[[int], int] = lambda size: size) -> None:
        self.choose = choose
        self.sent = bytearray()
        self.sends = 0
        self.error: OSError | None = None

    def send(self, data: bytes | memoryview, /) -> int:
        self.sends += 1
        if self.error is not None:
            raise self.error
        taken = min(self.choose(len(data)), len(data))
        if taken <= 0:
            raise BlockingIOError
        self.sent += data[:taken]
        return taken

    def sendmsg(self, buffers: Sequence[bytes], /) -> int:
        return self.send(b"".join(buffers))

    def fileno(self) -> int:
        raise AssertionError("nobody waits for a fake")


def fitful(rng: random.Random) -> Callable[[int], int]:
    """Takes all, nothing or a part, as it comes."""
    return lambda size: rng.choice([size, size, 0, rng.randint(1, size)])


@dataclass(frozen=True)
class ParsedFrame:
    """A frame as a client reads it."""

    opcode: int
    payload: bytes
    rsv1: bool = False

    @property
    def text(self) -> bytes:
        """The message, unfolded if it is compressed."""
        if not self.rsv1:
            return self.payload
        unfold = zlib.decompressobj(-12)
        return unfold.decompress(self.payload + b"\0\0\xff\xff")


def parse_frames(data: bytes | bytearray) -> tuple[list[ParsedFrame], bytes]:
    """All whole frames of a server's byte stream and what remains; refuses what a server may not send.

    Written from RFC 6455 section 5.2, and on purpose without the code under test or its library.
    """
    found, at = [], 0
    while len(data) - at >= 2:
        first, second = data[at], data[at + 1]
        assert first & 0x30 == 0, "reserved bits are set"
        rsv1 = bool(first & 0x40)
        assert not rsv1 or first & 0x0F == 0x1, "only text is compressed"
        assert first & 0x80, "nothing is fragmented"
        assert not second & 0x80, "a server does not mask"
        opcode, size, begin = first & 0x0F, second, at + 2
        assert opcode in (0x1, 0x2, 0x8, 0x9, 0xA), f"opcode {opcode}"
        if size >= 126:
            assert opcode < 0x8, "control frames are short"
            width = 2 if size == 126 else 8
            if len(data) - begin < width:
                break
            (size,) = struct.unpack("!H" if width == 2 else "!Q", data[begin : begin + width])
            begin += width
        if len(data) - begin < size:
            break
        found.append(ParsedFrame(opcode, bytes(data[begin : begin + size]), rsv1))
        at = begin + size
    return found, bytes(data[at:])


def messages(data: bytes | bytearray) -> list[bytes]:
    """The payloads of the data frames in a byte stream."""
    return [frame.payload for frame in parse_frames(data)[0] if frame.opcode in (0x1, 0x2)]
