"""One websocket from the server's side, against wsproto as the client, over a pair of sockets in virtual time."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from appliance.net.http_server import Connection
from appliance.net.websocket_server import ServerWebsocket, WebsocketLimits

LIMITS = WebsocketLimits(max_message_bytes=1000, max_waiting_bytes=2**20, ping_interval_s=10, pong_timeout_s=5)


@dataclass
class Peer:
    """The client's end."""

    stream: trio.SocketStream
    protocol: Protocol = field(default_factory=lambda: Protocol(ConnectionType.CLIENT))
    events: list[Event] = field(default_factory=list)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def receive(self) -> Event:
        """The next event; a close of abnormal code when the connection just ends."""
        while not self.events:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self.protocol.receive_data(data or None)
            self.events.extend(self.protocol.events())
        return self.events.pop(0)


@dataclass
class There:
    websocket: ServerWebsocket
    peer: Peer
    messages: list[bytes]
    ended: trio.Event


Handle = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def conversing(
    limits: WebsocketLimits = LIMITS, data: bytes = b"", handle: Handle | None = None
) -> AsyncIterator[There]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for each in (ours, theirs):
        each.setblocking(False)
    messages: list[bytes] = []
    ended = trio.Event()

    async def take(message: bytes) -> None:
        messages.append(message)
        if handle is not None:
            await handle(message)

    with ours, theirs:
        websocket = ServerWebsocket(Connection.wrap(ours, "peer"), data, limits)

        async def run() -> None:
            await websocket.run(take)
            ours.close()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield There(websocket, Peer(trio.SocketStream(trio.socket.from_stdlib_socket(theirs))), messages, ended)
            nursery.cancel_scope.cancel()


async def test_messages_come_whole_and_answers_go_out(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        await there.peer.send(TextMessage("ab", message_finished=False))
        await there.peer.send(TextMessage("cé", message_finished=True))
        await there.peer.send(TextMessage("second"))
        await trio.testing.wait_all_tasks_blocked()
        assert there.messages == ["abcé".encode(), b"second"]
        assert there.websocket.send("é".encode())
        assert await there.peer.receive() == TextMessage("é")


async def test_what_was_read_behind_the_handshake_is_the_first_message(autojump_clock: MockClock) -> None:
    early = Protocol(ConnectionType.CLIENT).send(TextMessage("early"))
    async with conversing(data=early) as there:
        await trio.testing.wait_all_tasks_blocked()
        assert there.messages == [b"early"]


async def test_a_ping_is_answered_and_a_close_too(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        await there.peer.send(Ping(b"x"))
        assert await there.peer.receive() == Pong(b"x")
        await there.peer.send(CloseConnection(1000))
        answer = await there.peer.receive()
        assert isinstance(answer, CloseConnection)
        assert answer.code == 1000
        await there.ended.wait()
        assert not there.websocket.send(b"late")


async def test_closing_gives_the_reason_behind_what_waits(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        there.websocket.send(b"last words")
        there.websocket.close(1001, "going away " + "ü" * 200)
        assert await there.peer.receive() == TextMessage("last words")
        closed = await there.peer.receive()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1001
        assert (closed.reason or "").startswith("going away ü")
        await there.peer.send(closed.response())
        await there.ended.wait()


async def test_a_client_that_does_not_answer_a_close_is_left_after_a_moment(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        began = trio.current_time()
        there.websocket.close(1001, "going away")
        await there.ended.wait()
        assert trio.current_time() - began == pytest.approx(LIMITS.close_timeout_s)


async def test_a_client_that_answers_no_ping_is_left(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        await there.ended.wait()
        assert trio.current_time() >= LIMITS.ping_interval_s + LIMITS.pong_timeout_s
        assert there.websocket.close_reason == (1013, "no pong")


async def test_a_client_whose_message_is_being_handled_need_not_answer_pings(autojump_clock: MockClock) -> None:
    done = trio.Event()

    async def handle(_message: bytes) -> None:
        await trio.sleep(100)
        done.set()

    async with conversing(handle=handle) as there:
        await there.peer.send(TextMessage("slow"))
        await done.wait()
        assert not there.ended.is_set()


async def test_a_client_that_does_not_read_is_closed_when_too_much_waits(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        sent = 0
        while there.websocket.send(b"x" * 100_000):
            sent += 1
            await trio.lowlevel.checkpoint()
        assert 10 <= sent <= 100
        assert there.websocket.close_reason == (1013, f"too slow: more than {LIMITS.max_waiting_bytes} bytes wait")
        await there.ended.wait()


@pytest.mark.parametrize(
    ("event", "code"),
    [(TextMessage("x" * 1001), 1009), (BytesMessage(b"x"), 1003)],
    ids=["too long", "binary"],
)
async def test_what_is_not_taken_closes_with_its_code(event: Event, code: int, autojump_clock: MockClock) -> None:
    async with conversing() as there:
        await there.peer.send(event)
        closed = await there.peer.receive()
        assert isinstance(closed, CloseConnection)
        assert closed.code == code
        assert there.messages == []


async def test_bytes_that_are_no_websocket_close_it(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        await there.peer.stream.send_all(b"\xff\xff\xff\xff")
        closed = await there.peer.receive()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1002
        await there.ended.wait()


async def test_a_client_that_just_goes_away_ends_it(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        there.peer.stream.socket.close()
        await there.ended.wait()
        assert there.websocket.closing


async def test_a_flood_of_pings_from_a_client_that_reads_nothing_is_bounded(autojump_clock: MockClock) -> None:
    limits = WebsocketLimits(max_waiting_bytes=20_000, ping_interval_s=10, pong_timeout_s=5)
    async with conversing(limits) as there:
        flood = b"".join(there.peer.protocol.send(Ping(b"x" * 125)) for _ in range(500))
        for _ in range(10):
            with suppress(trio.BrokenResourceError):
                await there.peer.stream.send_all(flood)
            assert there.websocket._waiting_bytes <= limits.max_waiting_bytes
        assert there.websocket.close_reason is not None
        assert there.websocket.close_reason[1].startswith("too slow")
        await there.ended.wait()


async def test_a_message_of_endless_empty_pieces_is_too_big(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        for _ in range(LIMITS.max_message_bytes):
            await there.peer.send(TextMessage("", message_finished=False))
        closed = await there.peer.receive()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1009


async def test_one_answer_that_is_larger_than_what_may_wait_reaches_who_reads(autojump_clock: MockClock) -> None:
    async with conversing(WebsocketLimits(max_waiting_bytes=1000)) as there:
        await trio.testing.wait_all_tasks_blocked()
        assert there.websocket.send(b"a" * 5000)
        got = await there.peer.receive()
        assert isinstance(got, TextMessage)
        assert there.websocket.close_reason is None


async def test_what_is_no_utf_8_is_sent_as_text_all_the_same(autojump_clock: MockClock) -> None:
    async with conversing() as there:
        assert there.websocket.send(b'"\xff"')
        assert await there.peer.receive() == TextMessage('"\ufffd"')
