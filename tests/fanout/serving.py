"""The plane on a real socket, and clients that speak as well or as badly as a test wants."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock
from trio_websocket import WebSocketConnection, wrap_client_stream

from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.ports import LogView, StateSource
from appliance.fanout.service import Fanout, FanoutSettings
from appliance.net.listening import open_listener
from tests.fanout.fakes import ParsedFrame, parse_frames

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
QUIET = FanoutSettings(ping_interval_s=3600, pong_timeout_s=3600)


@dataclass
class Serving:
    """A running plane."""

    fanout: Fanout
    metrics: FanoutMetrics
    port: int
    stopping: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    clients: list["RawClient"] = field(default_factory=list)

    @asynccontextmanager
    async def subscriber(
        self, target: str = "/ws", max_message_size: int = 1 << 20
    ) -> AsyncIterator[WebSocketConnection]:
        """A subscriber by another implementation, which leaves its socket open when the server closes first."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream, trio.open_nursery() as nursery:
            ws = await wrap_client_stream(
                nursery, stream, f"127.0.0.1:{self.port}", target, max_message_size=max_message_size
            )
            yield ws
            await ws.aclose()

    async def client(self, *, receive_buffer: int | None = None) -> "RawClient":
        """A bare connection to it; closed at the end if the test does not."""
        self.clients.append(await RawClient.connect(self.port, receive_buffer))
        return self.clients[-1]

    def hub(self) -> dict[str, object]:
        found = self.fanout.statistics()["hub"]
        assert isinstance(found, dict)
        return found

    async def until(self, name: str, value: object) -> None:
        """Wait until a number of the hub's statistics is this."""
        with trio.fail_after(60):
            while self.hub()[name] != value:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    log: LogView, settings: FanoutSettings | None = None, *, states: StateSource | None = None
) -> AsyncIterator[Serving]:
    """Run the plane on a free port; the end stops it by its own way and waits for it.

    Without settings it does not ping: a test that takes long on a busy machine would find pings among its frames.
    """
    metrics = FanoutMetrics.create(CollectorRegistry())
    fanout = Fanout(settings or QUIET, log, metrics, states=states, jitter=lambda: 1.0)
    listener = open_listener("127.0.0.1:0")
    running = Serving(fanout, metrics, listener.getsockname()[1])

    async def run(task_status: trio.TaskStatus[object]) -> None:
        await fanout.run(listener, stopping=running.stopping, task_status=task_status)
        running.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        try:
            yield running
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
                for client in running.clients:
                    await client.stream.aclose()
                running.stopping.set()
                await running.ended.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def time_at_the_end(clock: MockClock) -> AsyncIterator[None]:
    """Subscribers are closed one after the other in time, so it goes on when a test is over."""
    try:
        yield
    finally:
        clock.rate = 1.0


class RawClient:
    """A client on a bare socket: it reads when it is told to and writes whatever it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = bytearray()
        self._parsed = 0

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None) -> "RawClient":
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        try:
            await stream.socket.connect(("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(stream)

    async def request(self, target: str = "/ws", /, **headers: str | None) -> tuple[int, dict[str, str], bytes]:
        """Send a handshake and return status, headers and, unless it is 101, the body."""
        fields: dict[str, str | None] = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": KEY,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        await self.stream.send_all("\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode())
        return await self._answer()

    async def _answer(self) -> tuple[int, dict[str, str], bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._read(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(status_line.split()[1])
        if status == 101:
            self.received += rest
            return status, headers, b""
        while len(rest) < int(headers["content-length"]):
            rest += await self._read(65536)
        return status, headers, rest

    async def _read(self, size: int) -> bytes:
        with trio.fail_after(60):
            data = await self.stream.receive_some(size)
        if not data:
            raise EOFError
        return bytes(data)

    async def frames(self, count: int) -> list[ParsedFrame]:
        """The first ``count`` frames since the start."""
        while len(found := parse_frames(self.received)[0]) < count:
            self.received += await self._read(1 << 20)
        return found

    async def close_frame(self) -> ParsedFrame:
        """The first one that closes the connection, which may stay open for a while."""
        while not (found := [frame for frame in parse_frames(self.received)[0] if frame.opcode == 0x8]):
            self.received += await self._read(1 << 20)
        return found[0]

    async def all_frames(self) -> list[ParsedFrame]:
        """Everything until the server ends the connection; the last frame must be whole."""
        try:
            while True:
                self.received += await self._read(1 << 20)
        except (EOFError, trio.BrokenResourceError):
            found, rest = parse_frames(self.received)
            assert rest == b""
            return found


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame, whole and masked with zeros."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


def close_of(frame: ParsedFrame) -> tuple[int, str]:
    """Code and reason of a close frame."""
    assert frame.opcode == 0x8
    return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()
