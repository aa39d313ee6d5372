"""The few bytes of the websocket protocol that the benches speak themselves, with nothing in between."""

import struct
import zlib

import brotli

from bench.messages import INDICES, PREFIX_BYTES, sequence_of

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_LARGEST_SHORT = 125
_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extensions}\r\n"
)
_OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{extensions}\r\n"
)
_ACCEPTED = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
_COMPRESSED = 0x40  # RSV1 (RFC 7692, section 6)
_FLUSHED = b"\x00\x00\xff\xff"


def handshake(host: str, path: str, *, deflate: bool = False) -> bytes:
    """The client's upgrade request; with ``deflate`` it offers permessage-deflate, as browsers do."""
    return _HANDSHAKE.format(path=path, host=host, extensions=_OFFER if deflate else "").encode()


def switching(*, deflate: bool = False) -> bytes:
    """The answer to `handshake`: its key is always the same (RFC 6455, section 1.3)."""
    return _SWITCHING.format(extensions=_ACCEPTED if deflate else "").encode()


def server_frame(payload: bytes, opcode: int = TEXT, *, compressed: bool = False) -> bytes:
    """A whole unmasked frame; ``compressed`` sets the bit that says that the payload is deflated."""
    length = len(payload)
    first = 0x80 | opcode | (_COMPRESSED if compressed else 0)
    if length <= _LARGEST_SHORT:
        head = struct.pack("!BB", first, length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 126, length)
    else:
        head = struct.pack("!BBQ", first, 127, length)
    return head + payload


def encoded_frame(encoding: str, message: bytes) -> bytes:
    """The frame of a message in one of `messages.ENCODINGS`."""
    if encoding == "brotli":
        return server_frame(brotli.compress(message, quality=5), BINARY)
    if encoding == "deflate":
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH)
        return server_frame(packed.removesuffix(_FLUSHED), compressed=True)
    return server_frame(message)


def client_pong(payload: bytes) -> bytes:
    """A pong, masked with zeros: a client must mask, with whatever it likes."""
    return struct.pack("!BB", 0x80 | PONG, 0x80 | len(payload)) + bytes(4) + payload


def server_pong(payload: bytes) -> bytes:
    """The answer to a client's ping."""
    return server_frame(payload, PONG)


def client_payload(data: bytes) -> tuple[int, bytes]:
    """(opcode, payload) of a short masked frame that came in one piece, as pings do on this machine."""
    length = data[1] & 127
    mask, masked = data[2:6], data[6 : 6 + length]
    return data[0] & 15, bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))


class Names:
    """Which message a compressed frame is. One of each is unpacked, the others are known by how they begin.

    Two messages that began alike would be taken for one, which shows: as one lost and one twice.
    """

    KEY_BYTES = 160  # the tables of a compressed 8 KB have some 80 bytes; then come the literals that differ
    KEPT = 4096  # far more than are under way; when full it begins anew

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], int] = {}

    def find(self, length: int, key: bytes) -> int | None:
        return self._known.get((length, key))

    def learn(self, payload: bytes, *, deflated: bool, indices: int) -> int:
        """The number of a message whose whole payload is here; ValueError when it is not one of ours."""
        text = _inflate(payload) if deflated else brotli.decompress(payload)
        sequence = sequence_of(text[:PREFIX_BYTES], indices)
        if len(self._known) >= self.KEPT:
            self._known.clear()
        self._known[len(payload), payload[: self.KEY_BYTES]] = sequence
        return sequence


def _inflate(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + _FLUSHED)


class FrameReader:
    """Bytes in, the numbers of the messages that are now whole out; pings wait in ``pings``."""

    __slots__ = ("_head", "_indices", "_names", "_remaining", "_sequence", "closed", "pings")

    def __init__(self, indices: int = INDICES, names: Names | None = None) -> None:
        self._indices = indices
        self._names = Names() if names is None else names
        self._head = b""  # the begin of a frame that is too short to know what it is
        self._remaining = 0  # bytes of the current frame that have not come yet
        self._sequence: int | None = None  # of the message that is coming in, None for a control frame
        self.pings: list[bytes] = []
        self.closed = False

    def feed(self, data: memoryview) -> list[int]:
        """ValueError for a message that is not one of `messages.numbered`."""
        whole: list[int] = []
        at = 0
        while at < len(data):
            if self._remaining:
                taken = min(self._remaining, len(data) - at)
                self._remaining -= taken
                at += taken
            else:
                at = self._begin(data, at)
                if self._head:
                    break
            if not self._remaining and self._sequence is not None:
                whole.append(self._sequence)
        return whole

    def _begin(self, data: memoryview, at: int) -> int:
        """Read as much of a frame as says what it is; keep what there is in ``_head`` when it is not enough."""
        kept = len(self._head)
        view = data[at:] if not kept else memoryview(self._head + bytes(data[at:]))
        size, length = _sizes(view)
        used = None if len(view) < size else self._identify(view[0], view[size : size + length], length)
        if used is None:
            self._head = bytes(view)
            return len(data)
        self._head, self._remaining = b"", length - used
        return at + size + used - kept

    def _identify(self, first: int, payload: memoryview, length: int) -> int | None:
        """How many bytes of the payload it took to know what the frame is; None when more must come."""
        opcode = first & 15
        if opcode not in {TEXT, BINARY}:
            return self._control(opcode, payload, length)
        if opcode == BINARY or first & _COMPRESSED:
            return self._compressed(payload, length, deflated=opcode == TEXT)
        used = min(length, PREFIX_BYTES)
        if len(payload) < used:
            return None
        self._sequence = sequence_of(payload[:used], self._indices)
        return used

    def _compressed(self, payload: memoryview, length: int, *, deflated: bool) -> int | None:
        used = min(length, Names.KEY_BYTES)
        if len(payload) < used:
            return None
        self._sequence = self._names.find(length, bytes(payload[:used]))
        if self._sequence is not None:
            return used
        if len(payload) < length:
            return None
        self._sequence = self._names.learn(bytes(payload), deflated=deflated, indices=self._indices)
        return length

    def _control(self, opcode: int, payload: memoryview, length: int) -> int | None:
        if len(payload) < length:
            return None
        self._sequence = None
        if opcode == PING:
            self.pings.append(bytes(payload))
        elif opcode == CLOSE:
            self.closed = True
        return length


def _sizes(view: memoryview) -> tuple[int, int]:
    """(bytes of the frame's header, bytes of its payload); the header's size alone when more must come."""
    if len(view) < 2:
        return 2, 0
    short = view[1] & 127
    if short <= _LARGEST_SHORT:
        return 2, short
    size, form = (4, "!H") if short == _LARGEST_SHORT + 1 else (10, "!Q")
    if len(view) < size:
        return size, 0
    (length,) = struct.unpack_from(form, view, 2)
    return size, int(length)
