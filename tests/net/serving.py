"""A running server and raw clients for tests. Answers are read by h11, which shares no code with ours."""

import itertools
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import h11
import outcome
import trio

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Handler, HandOver, HttpLimits, HttpServer, OnHead, Upgrade
from appliance.net.quick_session import QuickHandler, Turn
from appliance.net.readiness import Readiness

_numbers = itertools.count()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """The client's end of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._read = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def send_now(self, data: bytes) -> bool:
        """`send` without a turn of the loop; false when the other end is closed."""
        with socket.socket(fileno=os.dup(self.stream.socket.fileno())) as same:
            try:
                return same.send(data) == len(data)
            except BrokenPipeError:
                return False

    async def answer(self, method: str = "GET") -> Answer:
        """The next whole response."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if self._read:
            parser.receive_data(self._read)
        head: h11.Response | None = None
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
        assert head is not None
        self._read = parser.trailing_data[0]
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body)

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.send(data)
        return await self.answer(method)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        data = self._read
        try:
            async for piece in self.stream:
                data += piece
        except trio.BrokenResourceError:
            pass  # a reset closes as well
        return data

    async def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self.stream.receive_some(size - len(data))
            assert piece, f"closed after {data!r}"
            data += piece
        return data


Way = Callable[[Handler, trio.Nursery], QuickHandler | None]
"""How a server's requests get to the handler of a test."""


def in_a_task(_: Handler, __: trio.Nursery) -> QuickHandler | None:
    """As servers without a quick handler do it."""
    return None


def handed_over(handler: Handler, _: trio.Nursery) -> QuickHandler | None:
    """By a quick handler that gives each request to the task."""

    def begin(request: HttpRequest, turn: Turn) -> bool:
        turn.hand_over(partial(handler, request))
        return True

    return begin


def replied(handler: Handler, nursery: trio.Nursery) -> QuickHandler | None:
    """By a quick handler whose answer comes later, or never."""

    async def work(request: HttpRequest, turn: Turn, scope: trio.CancelScope) -> None:
        with scope:
            captured = await outcome.acapture(handler, request)
            if isinstance(captured, outcome.Error) and isinstance(captured.error, trio.Cancelled):
                raise captured.error
            if isinstance(captured, outcome.Value) and isinstance(captured.value, HttpResponse):
                turn.reply(captured.value)
            else:
                turn.hand_over(partial(_unwrap, captured))

    def begin(request: HttpRequest, turn: Turn) -> bool:
        scope = trio.CancelScope()
        turn.on_cancel = scope.cancel
        nursery.start_soon(work, request, turn, scope)
        return True

    return begin


async def _unwrap(captured: outcome.Outcome[HttpResponse | Upgrade | HandOver]) -> HttpResponse | Upgrade | HandOver:
    return captured.unwrap()


ways: list[Way] = [in_a_task]
"""The last one counts: a test module that holds for all of them changes it by a fixture."""


@dataclass
class Running:
    server: HttpServer
    stopping: trio.Event
    address: str | tuple[str, int]
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> Peer:
        peer = self.connect_now()
        await trio.lowlevel.checkpoint()
        return peer

    def connect_now(self) -> Peer:
        """Nobody can have accepted it yet."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM)
        try:
            client.connect(self.address)  # at once: both families connect to a backlog
        except OSError:
            client.close()
            raise
        self.clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
        return Peer(self.clients[-1])

    @property
    def url(self) -> str:
        return f"http://{self.server.address}"

    def count(self, name: str) -> int:
        value = self.server.statistics()[name]
        assert isinstance(value, int)
        return value


def unix_listener(kind: type[socket.socket] = socket.socket) -> socket.socket:
    """A listener on which the other side sees everything at once, as virtual time needs it."""
    listener = kind(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0appliance-test-{os.getpid()}-{next(_numbers)}")
    listener.listen(1024)
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def running(
    handler: Handler,
    *,
    limits: HttpLimits | None = None,
    drain_timeout_s: float = 5,
    listener: socket.socket | None = None,
    cancel_on_disconnect: bool = False,
    on_head: OnHead | None = None,
) -> AsyncGenerator[Running, None]:
    """Serve ``handler`` until the block is left; then stop and wait for the drain."""
    listener = unix_listener() if listener is None else listener
    name = listener.getsockname()
    stopping = trio.Event()
    readiness = Readiness()
    async with trio.open_nursery() as around:
        around.start_soon(readiness.run)
        quick = ways[-1](handler, around)
        server = HttpServer(
            handler,
            listener,
            limits=limits or HttpLimits(),
            stopping=stopping,
            drain_timeout_s=drain_timeout_s,
            name="test",
            cancel_on_disconnect=cancel_on_disconnect,
            on_head=on_head,
            quick=None if quick is None else (quick, readiness),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            there = Running(server, stopping, name.decode() if isinstance(name, bytes) else name)
            try:
                yield there
            finally:
                for client in there.clients:
                    client.socket.close()
                stopping.set()
        around.cancel_scope.cancel()


async def echo(request: HttpRequest) -> HttpResponse:
    """Answers with the method, the target and the body."""
    return HttpResponse(200, f"{request.method} {request.target} ".encode() + request.body)
