"""The few bytes of the websocket protocol that the benches speak themselves, with nothing in between."""

import struct

from bench.messages import INDICES, PREFIX_BYTES, sequence_of

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_LARGEST_SHORT = 125
_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
"""The answer to `handshake`: its key is always the same (RFC 6455, section 1.3)."""


def handshake(host: str, path: str) -> bytes:
    """The client's upgrade request."""
    return _HANDSHAKE.format(path=path, host=host).encode()


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole unmasked frame."""
    length = len(payload)
    if length <= _LARGEST_SHORT:
        head = struct.pack("!BB", 0x80 | opcode, length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, length)
    return head + payload


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


class FrameReader:
    """Bytes in, the numbers of the messages that are now whole out; pings wait in ``pings``."""

    __slots__ = ("_head", "_indices", "_opcode", "_remaining", "_sequence", "closed", "pings")

    def __init__(self, indices: int = INDICES) -> None:
        self._indices = indices
        self._head = b""  # the begin of a frame that is too short to know what it is
        self._remaining = 0  # bytes of the current frame that have not come yet
        self._opcode = TEXT
        self._sequence = 0
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
            if not self._remaining and self._opcode in {TEXT, BINARY}:
                whole.append(self._sequence)
        return whole

    def _begin(self, data: memoryview, at: int) -> int:
        """Read a frame's head; keep what there is in ``_head`` when it is not enough."""
        kept = len(self._head)
        view = data[at:] if not kept else memoryview(self._head + bytes(data[at : at + 14 + _LARGEST_SHORT]))
        if len(view) < 2:
            self._head = bytes(view)
            return len(data)
        size, length = _sizes(view)
        opcode = view[0] & 15
        needed = size + (min(length, PREFIX_BYTES) if opcode in {TEXT, BINARY} else length)
        if len(view) < needed:
            self._head = bytes(view)
            return len(data)
        self._head, self._opcode, self._remaining = b"", opcode, size + length - needed
        self._act(opcode, view[size:needed])
        return at + needed - kept

    def _act(self, opcode: int, payload: memoryview) -> None:
        if opcode in {TEXT, BINARY}:
            self._sequence = sequence_of(payload, self._indices)
        elif opcode == PING:
            self.pings.append(bytes(payload))
        elif opcode == CLOSE:
            self.closed = True


def _sizes(view: memoryview) -> tuple[int, int]:
    """(bytes of the frame's header, bytes of its payload); the header's size alone when more must come."""
    short = view[1] & 127
    if short <= _LARGEST_SHORT:
        return 2, short
    size, form = (4, "!H") if short == _LARGEST_SHORT + 1 else (10, "!Q")
    if len(view) < size:
        return size, 0
    (length,) = struct.unpack_from(form, view, 2)
    return size, int(length)
