"""Where frames end in what a websocket server sends: to pass its bytes on a few frames at a time. Pure.

    head --blank line--> frames          HTTP's answer to the handshake, then RFC 6455 frames
      `--status 1xx but 101--> refused   after it there would be a second head, which would be taken for frames

trio-websocket handles all frames of one read before it lets others run, where none of them is a message to deliver:
32,000 empty pongs or continuations in one read of 64 KiB hold the loop for 0.5 s. What the frames mean is its
business; here only their lengths are read.
"""

import re
from typing import Final

FRAMES_AT_A_TIME: Final = 32
"""0.5 ms of the library's time."""

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")  # as h11 looks for it
_STATUS: Final = re.compile(rb"HTTP/[0-9]\.[0-9] (1[0-9][0-9])")
_SWITCHING: Final = b"101"
_MAX_HEAD_BYTES: Final = 64 * 1024
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # of the length in the second byte: so many more follow


class BadStart(Exception):
    """The answer to the handshake is none after which frames could follow."""


class FrameGate:
    """Holds what was read and gives it out in parts; ``frames`` counts those that were begun."""

    def __init__(self) -> None:
        self.frames = 0
        self._waiting = b""
        self._at = 0
        self._head: bytearray | None = bytearray()
        self._header = bytearray()  # of a frame, as far as it has come
        self._rest = 0  # of its payload

    def put(self, data: bytes | bytearray) -> None:
        """What was read; after all that was put before has been taken."""
        self._waiting, self._at = bytes(data), 0

    def take(self) -> bytes:
        """The next part, at most `FRAMES_AT_A_TIME` frames; empty when more has to be read. Raises BadStart."""
        begin = self._at
        if begin < len(self._waiting):
            self._at = self._end_of_head() if self._head is not None else self._end_of_frames()
        return self._waiting[begin : self._at]

    def _end_of_head(self) -> int:
        """The head goes out alone, so that nothing behind it is handled with it."""
        before = len(self._head or b"")
        head = self._head = (self._head or bytearray()) + self._waiting[self._at :]
        status, end = _STATUS.match(head), _END_OF_HEAD.search(head)
        if (status and status[1] != _SWITCHING) or (end is None and len(head) > _MAX_HEAD_BYTES):
            raise BadStart(f"expected the status 101, found {bytes(head[:40])!r}")
        if end is None:
            return len(self._waiting)
        self._head = None
        return self._at + end.end() - before

    def _end_of_frames(self) -> int:
        at, size, last = self._at, len(self._waiting), self.frames + FRAMES_AT_A_TIME
        while at < size:
            if self._rest:
                step = min(self._rest, size - at)
                self._rest -= step
                at += step
            elif not self._header and self.frames == last:
                break
            else:
                at = self._read_header(at)
        return at

    def _read_header(self, at: int) -> int:
        header = self._header
        if not header:
            self.frames += 1
        part = self._waiting[at : at + _header_size(header) - len(header)]
        header += part
        if len(header) >= 2 and len(header) == _header_size(header):
            self._rest = _payload_size(header)
            header.clear()
        return at + len(part)


def _header_size(header: bytearray) -> int:
    """How long it will be, as far as that is known: RFC 6455, 5.2."""
    if len(header) < 2:
        return 2
    length, masked = header[1] & 0x7F, header[1] & 0x80
    more = {_TWO_BYTES: 2, _EIGHT_BYTES: 8}.get(length, 0)
    return 2 + more + (4 if masked else 0)


def _payload_size(header: bytearray) -> int:
    length = header[1] & 0x7F
    if length < _TWO_BYTES:
        return length
    return int.from_bytes(header[2 : 4 if length == _TWO_BYTES else 10], "big")
