"""What a proxy in Python on trio costs at least: `python -m bench.lb_bare_proxy BACKEND_PORT [--sockets]`.

httptools on both sides, one connection to the back end for each client, the node's answer sent on. No queue, no
limits, no deadlines, no health, no log, no metrics. On trio's streams; with ``--sockets`` on bare sockets, below which
nothing goes. Prints its port; ends with stdin.
"""

import argparse
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from httptools import HttpRequestParser, HttpResponseParser

from bench.children import say
from bench.machine import raise_file_limit

_RECEIVE_BYTES = 262_144
_BROKEN = (OSError, trio.BrokenResourceError)

Receive = Callable[[], Awaitable[bytes | bytearray]]
Send = Callable[[bytes], Awaitable[None]]


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


async def _relay(receive: Receive, send: Send, receive_node: Receive, send_node: Send) -> None:
    request = _Message()
    requests = HttpRequestParser(request)
    while data := await receive():
        requests.feed_data(data)
        if not request.whole:
            continue
        body = request.take()
        await send_node(b"POST / HTTP/1.1\r\nhost: node\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        answer = _Message()
        parser = HttpResponseParser(answer)
        while not answer.whole:
            parser.feed_data(await receive_node())
        body = answer.take()
        await send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def _serve_stream(port: int, client: trio.SocketStream) -> None:
    async with client, await trio.open_tcp_stream("127.0.0.1", port) as node:
        with contextlib.suppress(*_BROKEN):  # the client went away
            await _relay(client.receive_some, client.send_all, node.receive_some, node.send_all)


async def _serve_socket(port: int, accepted: trio.SocketStream) -> None:
    client = socket.socket(fileno=accepted.socket.detach())
    with client, socket.create_connection(("127.0.0.1", port)) as node:
        for each in (client, node):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _relay(partial(_receive, client), partial(_send, client), partial(_receive, node), partial(_send, node))


async def _receive(connection: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            return connection.recv(_RECEIVE_BYTES)
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


async def _main(port: int, *, sockets: bool) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    serve = partial(_serve_socket if sockets else _serve_stream, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        say(ready=True, port=listeners[0].socket.getsockname()[1])
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        nursery.cancel_scope.cancel()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, metavar="BACKEND_PORT")
    parser.add_argument("--sockets", action="store_true")
    given = parser.parse_args()
    raise_file_limit()
    trio.run(partial(_main, given.port, sockets=given.sockets))


if __name__ == "__main__":
    main()
