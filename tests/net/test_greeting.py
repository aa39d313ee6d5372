"""A websocket's handshake at the accept."""

import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from appliance.net.greeting import Greet, Unanswered, greet
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Handler, HandOver, HttpLimits, HttpServer
from tests.net.serving import Peer, Running, unix_listener

REQUEST = b"GET /ws?a=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
PLAIN = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = HttpLimits()
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\na: b\r\n\r\n"


def never(_: socket.socket, __: bytes, ___: Callable[[], None]) -> None:
    raise AssertionError("not taken over here")


HANDED = HandOver({"a": "b"}, never)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_a_whole_request_is_answered_at_once() -> None:
    asked: list[HttpRequest] = []

    def answer(request: HttpRequest) -> HandOver:
        asked.append(request)
        return HANDED

    with pair() as (ours, theirs):
        theirs.send(REQUEST + b"a frame")
        assert greet(ours, "1.2.3.4", LIMITS, answer) == (HANDED, b"a frame")
        assert theirs.recv(1000) == SWITCHED
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    assert [(one.path, one.query, one.peer, one.upgrade) for one in asked] == [("/ws", {"a": "1"}, "1.2.3.4", True)]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        REQUEST.replace(b"GET", b"POST"),
        REQUEST.replace(b"websocket", b"h2c"),
        REQUEST.replace(b"Host", b"Ho st"),
        REQUEST.replace(b"1.1", b"3.1"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST,
        REQUEST.replace(b"Host: x", b"Host: " + b"x" * LIMITS.max_header_bytes),
        b"GET /" + b"x" * LIMITS.max_header_bytes,
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n123",
    ],
    ids=["no upgrade", "post", "h2c", "no http", "version", "second of two", "long", "long half", "tls", "body"],
)
def test_all_else_goes_the_ordinary_way_with_every_byte(data: bytes) -> None:
    assert_untouched(data, Unanswered.NOT_AT_ONCE)


@pytest.mark.parametrize("data", [b"", b"GET ", REQUEST[:40], REQUEST[:-2], REQUEST[:-1]])
def test_what_is_not_whole_stays_where_it_is(data: bytes) -> None:
    assert_untouched(data, Unanswered.NOT_YET)


def assert_untouched(data: bytes, why: Unanswered) -> None:
    def answer(_: HttpRequest) -> HandOver:
        raise AssertionError("not asked")

    with pair() as (ours, theirs):
        if data:
            theirs.send(data)
        assert greet(ours, "", LIMITS, answer) is why
        assert not data or ours.recv(100_000) == data
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_what_needs_a_wait_goes_the_ordinary_way() -> None:
    with pair() as (ours, theirs):
        theirs.send(REQUEST)
        assert greet(ours, "", LIMITS, lambda _: None) is Unanswered.NOT_AT_ONCE
        assert ours.recv(10_000) == REQUEST


def test_a_client_that_has_gone_is_an_error() -> None:
    with pair() as (ours, theirs):
        theirs.send(REQUEST)
        theirs.close()
        with pytest.raises(OSError, match="Broken pipe"):
            greet(ours, "", LIMITS, lambda _: HANDED)


@asynccontextmanager
async def greeting(at_once: Greet, handler: Handler, limits: HttpLimits = LIMITS) -> AsyncGenerator[Running, None]:
    """A server that asks ``at_once`` first."""
    listener, stopping = unix_listener(), trio.Event()
    server = HttpServer(
        handler, listener, limits=limits, stopping=stopping, drain_timeout_s=5, name="test", at_once=at_once
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: server.run(task_status=task_status))
        there = Running(server, stopping, listener.getsockname().decode())
        try:
            yield there
        finally:
            for client in there.clients:
                client.socket.close()
            stopping.set()


def asking(there: Running, data: bytes = REQUEST) -> Peer:
    """A client whose bytes are there before anybody can accept it."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(there.address)
    client.send(data)
    there.clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
    return Peer(there.clients[-1])


class Taken:
    """Who takes connections over."""

    def __init__(self) -> None:
        self.connections: list[tuple[socket.socket, bytes, Callable[[], None]]] = []
        self.came = trio.Event()

    def take(self, sock: socket.socket, data: bytes, ended: Callable[[], None]) -> None:
        self.connections.append((sock, data, ended))
        self.came.set()

    def hand_over(self, _: HttpRequest) -> HandOver:
        return HandOver({"a": "b"}, self.take)

    async def handle(self, request: HttpRequest) -> HttpResponse | HandOver:
        return self.hand_over(request) if request.upgrade else HttpResponse(200, b"by the handler")

    def end(self) -> None:
        for sock, _, ended in self.connections:
            sock.close()
            ended()


async def refuse(_: HttpRequest) -> HttpResponse:
    return HttpResponse(500, b"nobody asks the handler")


@pytest.mark.parametrize("at_the_accept", [True, False])
async def test_a_connection_that_is_handed_over_counts_until_it_has_ended(at_the_accept: bool) -> None:
    taken = Taken()
    at_once = taken.hand_over if at_the_accept else lambda _: None
    async with greeting(at_once, refuse if at_the_accept else taken.handle) as there:
        peer = asking(there, REQUEST + b"early")
        assert await peer.read_exactly(len(SWITCHED)) == SWITCHED
        await taken.came.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert [data for _, data, _ in taken.connections] == [b"early"]
        assert (there.count("connections"), there.count("requests"), there.count("upgrades")) == (1, 1, 1)
        assert not taken.connections[0][0].getblocking()
        taken.connections[0][0].send(b"by its taker")
        assert await peer.read_exactly(12) == b"by its taker"
        taken.end()
        assert there.count("connections") == 0
        assert await peer.rest() == b""


async def test_a_connection_that_is_handed_over_keeps_no_task() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse) as there:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            peer = asking(there)
            await peer.read_exactly(len(SWITCHED))
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert there.count("connections") == 20
        taken.end()


async def test_a_server_that_stops_leaves_to_its_taker_what_it_handed_over() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse) as there:
        peer = asking(there)
        await peer.read_exactly(len(SWITCHED))
        there.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        taken.connections[0][0].send(b"goodbye")
        assert await peer.read_exactly(7) == b"goodbye"
        taken.end()


@pytest.mark.parametrize("at_the_accept", [True, False])
@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("broken")])
async def test_who_fails_to_take_it_leaves_it_closed(at_the_accept: bool, error: Exception) -> None:
    def take(*_: object) -> None:
        raise error

    async def handle(_: HttpRequest) -> HandOver:
        return HandOver({"a": "b"}, take)

    async with greeting(lambda _: HandOver({"a": "b"}, take) if at_the_accept else None, handle) as there:
        peer = asking(there)
        assert await peer.rest() == SWITCHED
        assert there.count("connections") == 0


async def test_one_who_asks_in_two_parts_is_served_by_the_handler() -> None:
    taken = Taken()
    async with greeting(lambda _: None, taken.handle) as there:
        peer = await there.connect()
        await peer.send(REQUEST[:30])
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(REQUEST[30:])
        assert await peer.read_exactly(len(SWITCHED)) == SWITCHED
        assert (await asking(there, PLAIN).answer()).body == b"by the handler"
        taken.end()


async def test_over_the_limit_nobody_is_asked() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse, HttpLimits(max_connections=1)) as there:
        first = asking(there)
        await first.read_exactly(len(SWITCHED))
        assert (await asking(there).answer()).status == 503
        assert len(taken.connections) == 1
        taken.end()


async def test_an_answer_at_once_that_fails_ends_that_connection_alone() -> None:
    def at_once(_: HttpRequest) -> HandOver:
        raise RuntimeError("broken")

    async with greeting(at_once, refuse) as there:
        peer = asking(there)
        assert await peer.rest() == b""
        assert (await asking(there, PLAIN).answer()).status == 500
