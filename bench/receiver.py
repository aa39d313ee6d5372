"""Subscribers that only read and take the time: raw sockets in one epoll loop (`python -m bench.receiver`).

Requests: ``connect`` (group, host, port, path, count, indices), ``progress`` (group), ``finish`` (group,
first, last, file). A group is the subscribers of one server, ``indices`` the flashblocks of one payload in
its stream. ``finish`` writes two arrays to the file, one entry a message received: numbers (unsigned 64
bit), then times (64-bit float, seconds of the monotonic clock, which all processes of a machine share).
"""

import array
import gc
import json
import os
import pathlib
import select
import socket
import sys
import time
from typing import Any

from bench.children import say
from bench.frames import FrameReader, client_pong, handshake
from bench.machine import raise_file_limit

BATCH = 64  # handshakes under way at once: fewer than any listen backlog
BUFFER_BYTES = 1 << 18
HANDSHAKE_TIMEOUT_S = 20.0


class Group:
    """All subscribers of one server and what they received."""

    def __init__(self) -> None:
        self.subscribers: list[Subscriber] = []
        self.numbers = array.array("Q")
        self.times = array.array("d")
        self.refused: list[str] = []

    def received(self, sequences: list[int]) -> None:
        now = time.monotonic()
        for sequence in sequences:
            self.numbers.append(sequence)
            self.times.append(now)

    def finish(self, first: int, last: int, path: pathlib.Path) -> dict[str, int]:
        """Check every subscriber's numbers against ``first`` to ``last`` without a gap."""
        with path.open("wb") as file:
            self.numbers.tofile(file)
            self.times.tofile(file)
        return {
            "received": len(self.numbers),
            "lost": sum(one.lost(first, last) for one in self.subscribers),
            "duplicated": sum(one.duplicated for one in self.subscribers),
            "closed": sum(one.closed for one in self.subscribers),
        }


class Subscriber:
    """One connection. What must come next is known, so every gap and every repetition shows."""

    __slots__ = ("_first", "_gaps", "_next", "_reader", "closed", "duplicated", "group", "socket")

    def __init__(self, connected: socket.socket, group: Group, indices: int) -> None:
        self.socket = connected
        self.group = group
        self.closed = False
        self.duplicated = 0
        self._reader = FrameReader(indices)
        self._first: int | None = None
        self._next = 0
        self._gaps = 0

    def feed(self, data: memoryview) -> None:
        sequences = self._reader.feed(data)
        if sequences:
            self.group.received(sequences)
            self._check(sequences)
        for ping in self._reader.pings:
            self.socket.send(client_pong(ping))
        self._reader.pings.clear()
        self.closed = self.closed or self._reader.closed

    def _check(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if self._first is None:
                self._first = self._next = sequence
            if sequence < self._next:
                self.duplicated += 1
                continue
            self._gaps += sequence - self._next
            self._next = sequence + 1

    def lost(self, first: int, last: int) -> int:
        """How many of ``first`` to ``last`` (both included) never came."""
        if self._first is None:
            return last - first + 1
        return max(0, self._first - first) + self._gaps + max(0, last + 1 - self._next)


class Receiver:
    """The loop: sockets and requests on one epoll."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._subscribers: dict[int, Subscriber] = {}
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._requests = b""

    def run(self) -> None:
        """Until stdin ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        say(ready=True)
        while True:
            for descriptor, _ in self._poll.poll():
                subscriber = self._subscribers.get(descriptor)
                if subscriber is not None:
                    self._read(subscriber)
                elif not self._read_requests():
                    return

    def _read(self, subscriber: Subscriber) -> None:
        try:
            count = subscriber.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            subscriber.feed(self._buffer[:count])
            return
        subscriber.closed = True
        self._poll.unregister(subscriber.socket.fileno())
        del self._subscribers[subscriber.socket.fileno()]
        subscriber.socket.close()

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self._requests += data
        while b"\n" in self._requests:
            line, _, self._requests = self._requests.partition(b"\n")
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, request: dict[str, Any]) -> None:
        group = self._groups.setdefault(request["group"], Group())
        if request["do"] == "connect":
            say(**self._connect(group, request))
        elif request["do"] == "progress":
            say(received=len(group.numbers), closed=sum(one.closed for one in group.subscribers))
        elif request["do"] == "finish":
            say(**group.finish(request["first"], request["last"], pathlib.Path(request["file"])))

    def _connect(self, group: Group, request: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        left: int = request["count"]
        while left:
            batch = min(left, BATCH)
            self._connect_batch(group, request, batch)
            left -= batch
        gc.freeze()  # the sockets live to the end: no collection need look at them
        return {
            "connected": len(group.subscribers),
            "seconds": time.monotonic() - started,
            "refused": group.refused[:3],
        }

    def _connect_batch(self, group: Group, request: dict[str, Any], count: int) -> None:
        address = (request["host"], request["port"])
        opened = [socket.create_connection(address, HANDSHAKE_TIMEOUT_S) for _ in range(count)]
        for one in opened:
            one.sendall(handshake(request["host"], request["path"]))
        for one in opened:
            answer, rest = _read_answer(one)
            if b" 101 " in answer.split(b"\r\n", 1)[0]:
                self._add(Subscriber(one, group, request["indices"]), rest)
            else:
                group.refused.append(answer.split(b"\r\n", 1)[0].decode(errors="replace"))
                one.close()

    def _add(self, subscriber: Subscriber, rest: bytes) -> None:
        subscriber.socket.setblocking(False)
        subscriber.group.subscribers.append(subscriber)
        self._subscribers[subscriber.socket.fileno()] = subscriber
        self._poll.register(subscriber.socket.fileno(), select.EPOLLIN)
        if rest:
            subscriber.feed(memoryview(rest))


def _read_answer(one: socket.socket) -> tuple[bytes, bytes]:
    """The HTTP head, and what came after it in the same read."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = one.recv(4096)
        if not more:
            return data, b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


if __name__ == "__main__":
    raise_file_limit()
    Receiver().run()
