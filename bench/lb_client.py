"""The clients of the load balancer's bench, in a closed loop: `python -m bench.lb_client`, steered by JSON lines.

``run`` (port, connections, body_bytes, seconds, headers, own_heads) holds that many connections, each with one request
at a time, and answers with requests, latencies in seconds (a sample of at most 200,000) and errors by status.
"""

import contextlib
import json
import select
import socket
import sys
import time
from typing import Any

from bench.children import say
from bench.machine import raise_file_limit

MAX_SAMPLES = 200_000


class Connection:
    """One client: its socket, what is still to be sent, and when its request began."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10.0)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent: memoryview | None = None
        self.began = 0.0


class Load:
    """One run."""

    def __init__(
        self, port: int, connections: int, body_bytes: int, headers: dict[str, str], *, own_heads: bool = False
    ) -> None:
        body = b'{"jsonrpc":"2.0","id":1,"method":"eth_callBundle","params":["' + b"a" * (body_bytes - 64) + b'"]}'
        lines = ["POST / HTTP/1.1", "host: lb", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = memoryview("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        # Each request says another one: as clients do that number or sign them.
        self._numbered = "\r\n".join([*lines, "x-request-id: "]).encode(), b"\r\n\r\n" + body
        self._own_heads = own_heads
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self.latencies: list[float] = []
        self.count = 0
        self.errors: dict[str, int] = {}
        for _ in range(connections):
            one = Connection(port)
            self._connections[one.socket.fileno()] = one
            self._poll.register(one.socket.fileno(), select.EPOLLIN)

    def run(self, seconds: float) -> float:
        """Until the time is over and there was an answer; the seconds that it was."""
        began = time.perf_counter()
        end = began + seconds
        for one in self._connections.values():
            self._send(one)
        while (now := time.perf_counter()) < end or not self.count:
            for descriptor, events in self._poll.poll(max(end - now, 0.001)):
                one = self._connections[descriptor]
                if events & select.EPOLLOUT:
                    self._go_on(one)
                else:
                    self._receive(one)
        return time.perf_counter() - began

    def close(self) -> None:
        for one in self._connections.values():
            one.socket.close()
        self._poll.close()

    def _send(self, one: Connection) -> None:
        one.began = time.perf_counter()
        if self._own_heads:
            before, behind = self._numbered
            self._request = memoryview(b"%b%012d%b" % (before, time.perf_counter_ns() % 10**12, behind))
        one.unsent = self._request
        self._go_on(one)

    def _go_on(self, one: Connection) -> None:
        assert one.unsent is not None
        waited = len(one.unsent) < len(self._request)
        with contextlib.suppress(BlockingIOError):
            one.unsent = one.unsent[one.socket.send(one.unsent) :]
        if one.unsent:
            self._poll.modify(one.socket.fileno(), select.EPOLLOUT)
        elif waited:
            self._poll.modify(one.socket.fileno(), select.EPOLLIN)

    def _receive(self, one: Connection) -> None:
        data = one.socket.recv(65_536)  # answers are small and come in one piece
        if not data:
            raise ConnectionError("the server hung up")
        latency = time.perf_counter() - one.began
        if len(self.latencies) < MAX_SAMPLES:
            self.latencies.append(latency)
        self.count += 1
        status = data[9:12]
        if status != b"200":
            self.errors[status.decode()] = self.errors.get(status.decode(), 0) + 1
        self._send(one)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one line."""
    own_heads = request.get("own_heads", False)
    load = Load(request["port"], request["connections"], request["body_bytes"], request["headers"], own_heads=own_heads)
    try:
        seconds = load.run(request["seconds"])
    finally:
        load.close()
    return {"seconds": seconds, "count": load.count, "latencies": load.latencies, "errors": load.errors}


if __name__ == "__main__":
    raise_file_limit()
    say(ready=True)
    for line in sys.stdin:
        say(**run(json.loads(line)))
