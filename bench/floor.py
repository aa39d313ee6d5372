"""What sending cannot cost less than: one ready frame and a plain loop of non-blocking `send`.

No log, no protocol, no event loop around the sends (`python -m bench.floor`). Requests: ``round`` (first,
messages, rate, size) and ``cpu``. Answers to ``round`` say when each pass over all sockets began, and how long it took.
"""

import gc
import json
import os
import select
import socket
import sys
import time
from typing import Any

from bench.children import say
from bench.frames import encoded_frame, switching
from bench.machine import raise_file_limit
from bench.messages import ENCODINGS, numbered


class Floor:
    """Accepts whoever comes, and sends to all of them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._sockets: dict[int, socket.socket] = {}
        self._subscribed: dict[str, dict[int, socket.socket]] = {encoding: {} for encoding in ENCODINGS}
        self._poll = select.epoll()
        self._requests = b""

    def run(self) -> None:
        """Until stdin ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        say(ready=True, port=self._listener.getsockname()[1])
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._sockets:
                    self._read(self._sockets[descriptor])
                elif not self._read_requests():
                    return

    def _accept(self) -> None:
        one, _ = self._listener.accept()
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[one.fileno()] = one
        self._poll.register(one.fileno(), select.EPOLLIN)

    def _read(self, one: socket.socket) -> None:
        """The request of a handshake comes in one piece on this machine."""
        request = one.recv(4096)
        if request:
            encoding = "deflate" if b"permessage-deflate" in request else "text"
            encoding = "brotli" if b"encoding=brotli" in request else encoding
            self._subscribed[encoding][one.fileno()] = one
            one.send(switching(deflate=encoding == "deflate"))
            return
        self._poll.unregister(one.fileno())
        del self._sockets[one.fileno()]
        for members in self._subscribed.values():
            members.pop(one.fileno(), None)
        one.close()

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self._requests += data
        while b"\n" in self._requests:
            line, _, self._requests = self._requests.partition(b"\n")
            request = json.loads(line)
            say(**(self._round(request) if request["do"] == "round" else {"cpu_s": time.process_time()}))
        return bool(data)

    def _round(self, request: dict[str, Any]) -> dict[str, Any]:
        gc.freeze()
        published: list[float] = []
        passes: list[float] = []
        first, rate = request["first"], request["rate"]
        began = time.monotonic()
        for number in range(request["messages"]):
            message = numbered(first + number, request["size"])
            frames = {encoding: encoded_frame(encoding, message) for encoding in ENCODINGS}
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            published.append(time.monotonic())
            for encoding, frame in frames.items():
                self._send_to_all(frame, self._subscribed[encoding])
            passes.append(time.monotonic() - published[-1])
        return {"published": published, "passes": passes}

    def _send_to_all(self, frame: bytes, members: dict[int, socket.socket]) -> None:
        """Sockets that do not take the whole frame at once get the rest before the next one."""
        unsent: list[tuple[socket.socket, bytes]] = []
        size = len(frame)
        for one in members.values():
            try:
                sent = one.send(frame)
            except BlockingIOError:
                sent = 0
            if sent != size:
                unsent.append((one, frame[sent:]))
        for one, rest in unsent:
            one.setblocking(True)
            one.sendall(rest)
            one.setblocking(False)


if __name__ == "__main__":
    raise_file_limit()
    Floor().run()
