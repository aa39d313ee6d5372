"""The node of the load balancer's bench: answers every POST with ready bytes (`python -m bench.lb_backend`).

A plain epoll loop without a parser, so that it is never what is measured. With ``--service-ms LOW HIGH`` each
answer takes a time from that range, evenly spread, as a node that simulates bundles does. Prints its port; ends
with stdin.
"""

import argparse
import heapq
import random
import select
import socket
import sys
import time

from bench.children import say
from bench.machine import raise_file_limit

ANSWER_BYTES = 300


class Backend:
    """All connections in one loop; a connection has one request at a time."""

    def __init__(self, service_ms: tuple[float, float]) -> None:
        body = b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"0" * (ANSWER_BYTES - 38) + b'"}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._answer = head + body
        self._service_s = tuple(each / 1000 for each in service_ms)
        self._random = random.Random(1)  # service times are the same in every run
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._poll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._missing: dict[int, int] = {}  # bytes of a request's body that are still to come
        self._later: list[tuple[float, int]] = []

    def run(self) -> None:
        """Until stdin ends."""
        self._listener.setblocking(False)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        say(ready=True, port=self._listener.getsockname()[1])
        while True:
            for descriptor, _ in self._poll.poll(self._wait_s()):
                if descriptor == sys.stdin.fileno():
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                else:
                    self._read(descriptor)
            self._answer_due()

    def _wait_s(self) -> float:
        return max(self._later[0][0] - time.monotonic(), 0.0) if self._later else -1.0

    def _accept(self) -> None:
        one, _ = self._listener.accept()
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[one.fileno()] = one
        self._missing[one.fileno()] = 0
        self._poll.register(one.fileno(), select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        one = self._connections[descriptor]
        try:
            data = one.recv(262_144)
        except ConnectionError:
            data = b""
        if not data:
            self._poll.unregister(descriptor)
            del self._connections[descriptor]
            one.close()
            return
        missing = self._missing[descriptor]
        if not missing:
            end = data.index(b"\r\n\r\n") + 4  # heads come in one piece on this machine
            missing = int(data[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            data = data[end:]
        missing -= len(data)
        self._missing[descriptor] = missing
        if not missing:
            self._respond(descriptor)

    def _respond(self, descriptor: int) -> None:
        low, high = self._service_s
        if high:
            heapq.heappush(self._later, (time.monotonic() + self._random.uniform(low, high), descriptor))
        else:
            self._connections[descriptor].send(self._answer)

    def _answer_due(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            _, descriptor = heapq.heappop(self._later)
            if descriptor in self._connections:
                self._connections[descriptor].send(self._answer)


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", nargs=2, type=float, default=(0.0, 0.0), metavar=("LOW", "HIGH"))
    raise_file_limit()
    low, high = parser.parse_args().service_ms
    Backend((low, high)).run()


if __name__ == "__main__":
    main()
