"""The least that a proxy in Python on trio costs: `python -m bench.lb_bare_proxy BACKEND_PORT`.

httptools on both sides, one connection to the back end for each client, the node's answer sent on. No queue, no
limits, no deadlines, no health, no log, no metrics. Prints its port; ends with stdin.
"""

import socket
import sys

import trio
from httptools import HttpRequestParser, HttpResponseParser

from bench.children import say
from bench.machine import raise_file_limit


class _Message:
    """Collects a body until the message is whole."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.whole = False

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.whole = True

    def take(self) -> bytes:
        body, self.parts, self.whole = b"".join(self.parts), [], False
        return body


async def _receive(connection: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            return connection.recv(262_144)
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _send(connection: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connection)


async def _serve(client: socket.socket, port: int) -> None:
    request = _Message()
    requests = HttpRequestParser(request)
    with client, socket.create_connection(("127.0.0.1", port)) as node:
        for each in (client, node):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := await _receive(client):
            requests.feed_data(data)
            if request.whole:
                answer = await _ask(node, request.take())
                await _send(client, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)


async def _ask(node: socket.socket, body: bytes) -> bytes:
    await _send(node, b"POST / HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    answer = _Message()
    parser = HttpResponseParser(answer)
    while not answer.whole:
        parser.feed_data(await _receive(node))
    return answer.take()


async def _main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_stdin, nursery.cancel_scope)
        say(ready=True, port=listener.getsockname()[1])
        while True:
            await trio.lowlevel.wait_readable(listener)
            client, _ = listener.accept()
            nursery.start_soon(_serve, client, port)


async def _end_with_stdin(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(sys.stdin.fileno())
    scope.cancel()


if __name__ == "__main__":
    raise_file_limit()
    trio.run(_main, int(sys.argv[1]))
