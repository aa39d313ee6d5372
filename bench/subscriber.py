"""One subscriber of a receiver, and the group of all that one server has.

Arrival is when the kernel put the last byte into the subscriber's socket (SO_TIMESTAMPNS), not when the
receiver's loop came to it: here one process stands for thousands of machines, and its queue is not the server's.
"""

import array
import pathlib
import socket
import struct
import time
from typing import Final

from bench.frames import FrameReader, Names, client_pong, handshake
from bench.messages import INDICES, place

SO_TIMESTAMPNS: Final = getattr(
    socket, "SO_TIMESTAMPNS", 35
)  # Python does not name it; 35 on all but SPARC and PA-RISC
_TIMESPEC = struct.Struct("qq")
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_TIMESPEC.size)
STUCK_RECEIVE_BUFFER: Final = 4096
NO_LINGER: Final = struct.pack("ii", 1, 0)


def clock_offset() -> float:
    """Seconds from the monotonic clock, which all processes of a machine share, to the kernel's timestamps."""
    return time.time() - time.monotonic()


def kernel_time(ancillary: list[tuple[int, int, bytes]], offset: float) -> float:
    """When the bytes of a read came to this machine, by the monotonic clock; now, where the kernel does not say."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(seconds) + float(nanoseconds) * 1e-9 - offset
    return time.monotonic()


class Group:
    """All subscribers of one server and what they received. ``indices`` is how many flashblocks a payload has."""

    def __init__(self, host: str, port: int, path: str, indices: int = INDICES) -> None:
        self.host = host
        self.port = port
        self.path = path
        self.indices = indices
        self.names = Names()
        self.subscribers: list[Subscriber] = []
        self.numbers = array.array("Q")
        self.times = array.array("d")
        self.refused: list[str] = []

    def received(self, sequences: list[int], arrived: float) -> None:
        for sequence in sequences:
            self.numbers.append(sequence)
            self.times.append(arrived)

    def finish(self, first: int, last: int, path: pathlib.Path) -> dict[str, int]:
        """Check every reading subscriber's numbers against ``first`` to ``last`` without a gap."""
        with path.open("wb") as file:
            self.numbers.tofile(file)
            self.times.tofile(file)
        reading = [one for one in self.subscribers if not one.stuck]
        return {
            "received": len(self.numbers),
            "lost": sum(one.lost(first, last) for one in reading),
            "duplicated": sum(one.duplicated for one in reading),
            "closed": sum(one.closed for one in reading),
        }


class Subscriber:
    """One connection after the other. What must come next is known, so every gap and every repetition shows.

    A ``stuck`` one asks for everything from the first block on, and reads nothing of it.
    """

    __slots__ = (
        "_answer",
        "_first",
        "_gaps",
        "_next",
        "_reader",
        "behind",
        "closed",
        "duplicated",
        "encoding",
        "group",
        "socket",
        "streaming",
        "stuck",
    )

    def __init__(self, group: Group, encoding: str = "text", *, stuck: bool = False) -> None:
        self.group = group
        self.encoding = encoding
        self.stuck = stuck
        self.closed = False
        self.duplicated = 0
        self.streaming = False
        self.behind = False  # it came back, and has had no message yet
        self.socket: socket.socket
        self._answer = b""
        self._reader = FrameReader(group.indices, group.names)
        self._first: int | None = None
        self._next = 0
        self._gaps = 0

    def dial(self) -> None:
        """Begin to connect."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if self.stuck:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_RECEIVE_BUFFER)
        self.streaming = False
        self._answer = b""
        self._reader = FrameReader(self.group.indices, self.group.names)
        self.socket.connect_ex((self.group.host, self.group.port))

    def hang_up(self) -> None:
        """As a host does that dies: no goodbye, and no port of ours that waits for a minute."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.socket.close()

    def request(self) -> bytes:
        """The handshake: strictly after what came last, if anything came."""
        query = [f"encoding={self.encoding}"] if self.encoding == "brotli" else []
        if self.stuck:
            query.append("block_number=1")
        elif self._first is not None:
            payload_id, index = place(self._next - 1, self.group.indices)
            query.append(f"payload_id={payload_id}&flashblock_index={index}")
        path = self.group.path + ("?" + "&".join(query) if query else "")
        return handshake(self.group.host, path, deflate=self.encoding == "deflate")

    def answer(self, data: memoryview) -> str | memoryview | None:
        """More of the answer to the handshake: None when it is not whole, what came behind a 101, or a refusal."""
        self._answer += bytes(data)
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if not end:
            return None
        status = head.split(b"\r\n", 1)[0]
        if b" 101 " not in status:
            return status.decode(errors="replace")
        self._answer = b""
        self.streaming = True
        return memoryview(rest)

    def feed(self, data: memoryview, arrived: float) -> int:
        """How many messages were completed by some more bytes of the stream."""
        sequences = self._reader.feed(data)
        if sequences:
            self.group.received(sequences, arrived)
            self._check(sequences)
        for ping in self._reader.pings:
            self.socket.send(client_pong(ping))
        self._reader.pings.clear()
        self.closed = self.closed or self._reader.closed
        return len(sequences)

    def _check(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if self._first is None:
                self._first = self._next = sequence
            if sequence < self._next:
                self.duplicated += 1
                continue
            self._gaps += sequence - self._next
            self._next = sequence + 1

    def has_had(self, number: int) -> bool:
        """Whether this message has come, or a later one."""
        return self._first is not None and self._next > number

    def lost(self, first: int, last: int) -> int:
        """How many of ``first`` to ``last`` (both included) never came."""
        if self._first is None:
            return last - first + 1
        return max(0, self._first - first) + self._gaps + max(0, last + 1 - self._next)
