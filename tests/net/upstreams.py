"""Servers that do exactly what a test says, over TCP and TLS."""

import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.net.opening import Stream, transport_of

TLS_FILES = Path(__file__).parent / "tls"


@dataclass
class Conversation:
    """The upstream's end of one connection. ``number`` counts connections from 0."""

    stream: Stream
    number: int
    ended: trio.Event = field(default_factory=trio.Event)
    _read: bytes = b""

    async def request(self) -> bytes | None:
        """The next whole request (by Content-Length), or None when the client closed."""
        while b"\r\n\r\n" not in self._read:
            if not await self._read_more():
                return None
        head, _, rest = self._read.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(rest) < length:
            assert await self._read_more()
            rest = self._read.partition(b"\r\n\r\n")[2]
        self._read = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, body: bytes, *fields: bytes) -> None:
        lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields, b"", b""]
        await self.send(b"\r\n".join(lines) + body)

    async def reset(self) -> None:
        """End the connection with a reset, as a process that dies with unread bytes."""
        transport = transport_of(self.stream)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.socket.close()

    async def wait_closed(self) -> None:
        """The client closed its end."""
        while await self._read_more():
            pass

    async def _read_more(self) -> bool:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            return False
        self._read += data
        return bool(data)


Script = Callable[[Conversation], Awaitable[None]]


@dataclass
class Upstream:
    address: str
    conversations: list[Conversation] = field(default_factory=list)


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS_FILES / "certificate.pem", TLS_FILES / "key.pem")
    return context


def client_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(TLS_FILES / "certificate.pem"))


@asynccontextmanager
async def upstream(script: Script, *, tls: bool = False) -> AsyncGenerator[Upstream, None]:
    """Run ``script`` on each connection, and close it at the script's end."""
    conversations: list[Conversation] = []

    async def serve(stream: Stream) -> None:
        conversation = Conversation(stream, len(conversations))
        conversations.append(conversation)
        try:
            await script(conversation)
        except trio.BrokenResourceError:
            pass  # a client that closes on us is part of the tests
        finally:
            conversation.ended.set()

    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = trio.SSLListener(tcp, server_tls(), https_compatible=True) if tls else tcp
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [listener])
        try:
            yield Upstream(f"127.0.0.1:{tcp.socket.getsockname()[1]}", conversations)
        finally:
            nursery.cancel_scope.cancel()


async def echo_bodies(conversation: Conversation) -> None:
    """Answers every request with its body."""
    while (request := await conversation.request()) is not None:
        await conversation.answer(request.partition(b"\r\n\r\n")[2])
