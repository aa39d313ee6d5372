import base64
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from math import inf

import pytest
import trio
import trio.lowlevel
import trio_websocket

from appliance.domain.errors import ConfigError, UnavailableError
from appliance.net import websocket_client
from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken
from appliance.net.websocket_client import Inbox, conversation, messages
from appliance.net.websocket_frames import FRAMES_AT_A_TIME, FrameGate
from tests.net.upstreams import Conversation, client_tls, server_tls, upstream
from tests.support.eventually import eventually

Serve = Callable[[trio_websocket.WebSocketRequest], Awaitable[None]]


@asynccontextmanager
async def builder(serve: Serve, *, tls: bool = False) -> AsyncGenerator[str, None]:
    """A websocket server; gives its address."""
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[trio_websocket.WebSocketServer]) -> None:
            context = server_tls() if tls else None
            await trio_websocket.serve_websocket(serve, "127.0.0.1", 0, context, task_status=task_status)

        server = await nursery.start(run)
        yield f"127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


def connect(
    address: str,
    *,
    ping_interval_s: float = 60,
    pong_timeout_s: float = 60,
    connect_timeout_s: float = 60,
    max_message_bytes: int = 1 << 20,
    max_frames_per_s: float = inf,
) -> AbstractAsyncContextManager[Inbox]:
    return messages(
        f"ws://{address}/ws?x=1",
        ping_interval_s=ping_interval_s,
        pong_timeout_s=pong_timeout_s,
        connect_timeout_s=connect_timeout_s,
        max_message_bytes=max_message_bytes,
        max_frames_per_s=max_frames_per_s,
    )


def code_of(closed: trio_websocket.ConnectionClosed) -> int | None:
    return None if closed.reason is None else closed.reason.code


async def accept(conversation: Conversation) -> None:
    """The server's side of the handshake, by hand."""
    request = await conversation.request()
    assert request is not None
    (key,) = [
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    ]
    token = accept_token(key)
    await conversation.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
    )


def accept_token(key: bytes) -> bytes:
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


async def test_messages_come_in_order_with_their_kind_and_exact_bytes() -> None:
    paths: list[str] = []

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        paths.append(request.path)
        connection = await request.accept()
        await connection.send_message('{"é": "\U0001f9f1"}')
        await connection.send_message(b"\x00\xff")
        await connection.send_message("")
        await connection.aclose(1001, "restart")

    async with builder(serve) as address, connect(address) as inbox:
        got = [await anext(inbox) for _ in range(3)]

        assert got == [('{"é": "\U0001f9f1"}'.encode(), False), (b"\x00\xff", True), (b"", False)]
        with pytest.raises(ConnectionBroken, match=r"closed the websocket \(1001 restart\)"):
            await anext(inbox)
        with pytest.raises(ConnectionBroken):
            await anext(inbox)
    assert paths == ["/ws?x=1"]


async def test_messages_that_had_come_are_given_before_the_end_is_told() -> None:
    async def script(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.send(b"\x81\x01a\x81\x01b")

    async with upstream(script) as there, connect(there.address) as inbox:
        await there.conversations[0].ended.wait()

        assert [await anext(inbox) for _ in range(2)] == [(b"a", False), (b"b", False)]
        with pytest.raises(ConnectionBroken, match="ABNORMAL"):
            await anext(inbox)


async def test_it_works_over_tls() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        await connection.send_message("hello")
        with suppress(trio_websocket.ConnectionClosed):
            await connection.get_message()

    async with builder(serve, tls=True) as address:
        url = f"wss://{address}"
        async with messages(
            url,
            ping_interval_s=60,
            pong_timeout_s=60,
            connect_timeout_s=60,
            max_message_bytes=1000,
            ssl_context=client_tls(),
        ) as inbox:
            assert await anext(inbox) == (b"hello", False)


async def test_pings_are_answered_while_nobody_takes_messages() -> None:
    """The reader may be busy: the builder must not take the connection for dead."""
    answered = trio.Event()

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        for _ in range(20):
            await connection.send_message("x" * 10_000)
        for _ in range(3):
            await connection.ping()
        answered.set()
        await trio.sleep_forever()

    async with builder(serve) as address, connect(address) as inbox:
        await answered.wait()

        assert len([await anext(inbox) for _ in range(20)]) == 20


async def test_pings_keep_a_living_connection() -> None:
    pings = 0

    async def script(conversation: Conversation) -> None:
        nonlocal pings
        await accept(conversation)
        stream = conversation.stream
        while pings < 5:
            frame = b""  # a masked ping with four bytes
            while len(frame) < 10:
                frame += await stream.receive_some(10 - len(frame))
            assert frame[:2] == b"\x89\x84"
            payload = bytes(byte ^ frame[2 + i] for i, byte in enumerate(frame[6:]))
            pings += 1
            await stream.send_all(b"\x8a\x04" + payload)
        await stream.send_all(b"\x81\x02ok")
        await conversation.wait_closed()

    async with (
        upstream(script) as there,
        connect(there.address, ping_interval_s=0.01, pong_timeout_s=60) as inbox,
    ):
        assert await anext(inbox) == (b"ok", False)
    assert pings == 5


async def test_a_builder_that_answers_no_ping_is_given_up() -> None:
    async def script(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.wait_closed()

    async with upstream(script) as there:
        async with connect(there.address, ping_interval_s=0.01, pong_timeout_s=0.05) as inbox:
            with pytest.raises(ConnectionBroken, match=r"no pong from ws://127\.0\.0\.1:\d+ within 50 ms"):
                await anext(inbox)
        await there.conversations[0].ended.wait()


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        await connection.send_message("x" * 1000)
        await connection.send_message("x" * 1001)
        await connection.get_message()

    async def tolerant(request: trio_websocket.WebSocketRequest) -> None:
        try:
            await serve(request)
        except trio_websocket.ConnectionClosed as closed:
            codes.append(code_of(closed))

    codes: list[int | None] = []
    async with builder(tolerant) as address, connect(address, max_message_bytes=1000) as inbox:
        assert await anext(inbox) == (b"x" * 1000, False)
        with pytest.raises(ConnectionBroken, match="1009"):
            await anext(inbox)
        await eventually(lambda: codes == [1009])


async def test_garbage_instead_of_frames_ends_the_connection() -> None:
    async def script(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.send(b"\xff\xff\xff\xff")
        await conversation.wait_closed()

    async with upstream(script) as there, connect(there.address) as inbox:
        with pytest.raises((ConnectionBroken, BadResponse)):
            await anext(inbox)


async def test_text_that_is_not_utf_8_ends_the_connection() -> None:
    async def script(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.send(b"\x81\x02\xc3\x28")
        await conversation.wait_closed()

    async with upstream(script) as there, connect(there.address) as inbox:
        with pytest.raises((ConnectionBroken, BadResponse)):
            await anext(inbox)


# Opening


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 Switching", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
async def test_a_server_that_is_no_websocket_server_is_found_out_at_once(answer: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)

    async with upstream(script) as there:
        with trio.fail_after(30), pytest.raises((ConnectFailed, BadResponse)):
            async with connect(there.address, connect_timeout_s=60):
                raise AssertionError("not reached")


async def test_a_refused_handshake_tells_the_status() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(503, body=b"later")

    async with builder(serve) as address:
        with pytest.raises(ConnectFailed, match="refused the websocket with HTTP 503"):
            async with connect(address):
                raise AssertionError("not reached")


async def test_the_connect_deadline_covers_the_handshake(mock_clock: trio.testing.MockClock) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        mock_clock.jump(0.5)
        await conversation.wait_closed()

    async with upstream(script) as there:
        with pytest.raises(ConnectFailed, match="in time"):
            async with connect(there.address, connect_timeout_s=0.5):
                raise AssertionError("not reached")
        await there.conversations[0].ended.wait()


async def test_nobody_listening_is_connect_failed() -> None:
    with pytest.raises(ConnectFailed, match="Connection refused"):
        async with connect("127.0.0.1:1"):
            raise AssertionError("not reached")


async def test_http_urls_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected ws://… or wss://…, found scheme 'http'"):
        async with messages("http://x", ping_interval_s=1, pong_timeout_s=1, connect_timeout_s=1, max_message_bytes=1):
            raise AssertionError("not reached")


# Leaving


async def quiet(request: trio_websocket.WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        await connection.get_message()
    except trio_websocket.ConnectionClosed as closed:
        goodbyes.append(code_of(closed))


goodbyes: list[int | None] = []


async def test_leaving_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "_CLOSE_TIMEOUT_S", 60.0)
    goodbyes.clear()
    async with builder(quiet) as address:
        async with connect(address):
            pass
        await eventually(lambda: goodbyes == [1000])


async def test_what_the_body_raises_passes_unchanged() -> None:
    cause = ValueError("cause")
    async with builder(quiet) as address:
        with pytest.raises(KeyError) as caught:
            async with connect(address):
                raise KeyError("mine") from cause

    assert caught.value.__cause__ is cause


async def test_being_cancelled_inside_leaves_at_once() -> None:
    async with builder(quiet) as address:
        with trio.move_on_after(0.02) as scope:
            async with connect(address) as inbox:
                await anext(inbox)

    assert scope.cancelled_caught


async def test_a_server_that_does_not_say_goodbye_is_left_within_a_bound() -> None:
    async def script(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.wait_closed()

    async with upstream(script) as there:
        with trio.fail_after(30):
            async with connect(there.address):
                pass
        await there.conversations[0].ended.wait()


# The inbox


async def count_messages(inbox: Inbox) -> int:
    return len([message async for message in inbox])


async def test_an_inbox_over_its_bound_takes_no_more_until_messages_were_taken() -> None:
    inbox = Inbox(max_bytes=1000)
    taken = 0
    while inbox.put((bytes(100), False)):
        taken += 1

    assert taken == 4
    await anext(inbox)
    assert inbox.put((bytes(100), False))


async def test_a_reader_that_falls_too_far_behind_loses_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.net.websocket_client._INBOX_BYTES", 5000)

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message("x" * 500)
        except trio_websocket.ConnectionClosed:
            pass

    async with builder(serve) as address, connect(address, max_message_bytes=1000) as inbox:
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(ConnectionBroken, match="wait to be handled"):
            await count_messages(inbox)
        with pytest.raises(ConnectionBroken):
            await anext(inbox)


FLOODS = [b"\x8a\x00", b"\x89\x00", b"\x81\x00", b"\x00\x00", b"\x80\x00", b"\x81\x02{}"]


@pytest.mark.parametrize("frame", FLOODS)
async def test_a_flood_of_small_frames_holds_nobody_up_and_ends_the_connection(
    frame: bytes, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    """32,000 pongs in one read held the loop for 0.5 s: between two of our turns only a few are handled.

    The clock stands still: a machine may be so slow that it handles no more frames a second than may come.
    """
    gate, most = FrameGate(), 0
    monkeypatch.setattr(websocket_client, "FrameGate", lambda: gate)

    async def watch() -> None:
        nonlocal most
        while True:
            before = gate.frames
            await trio.lowlevel.checkpoint()
            most = max(most, gate.frames - before)

    async def flood(conversation: Conversation) -> None:
        await accept(conversation)
        if frame[0] in {0x00, 0x80}:
            await conversation.send(b"\x01\x00")
        with suppress(trio.BrokenResourceError):
            while True:
                await conversation.send(frame * (65536 // len(frame)))

    async with upstream(flood) as server, trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with pytest.raises(UnavailableError):  # noqa: PT012 reading to the end is one thing
            async with connect(server.address, max_frames_per_s=200) as inbox:
                async for _ in inbox:
                    pass
        nursery.cancel_scope.cancel()
    # It may come behind us in one pass of the loop and before us in the next, and after a read it holds a second part.
    assert 0 < most <= 3 * FRAMES_AT_A_TIME


async def test_frames_within_the_bound_are_taken() -> None:
    async def serve(conversation: Conversation) -> None:
        await accept(conversation)
        await conversation.send(b"\x81\x01x" * 300)
        await trio.sleep_forever()

    async with upstream(serve) as server, connect(server.address, max_frames_per_s=200) as inbox:
        for _ in range(300):
            assert await anext(inbox) == (b"x", False)


async def test_an_informational_answer_to_the_handshake_is_refused() -> None:
    async def serve(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await accept(conversation)
        await trio.sleep_forever()

    async with upstream(serve) as server:
        with pytest.raises(ConnectFailed, match="expected the status 101"):
            async with connect(server.address):
                pass


async def test_a_conversation_goes_both_ways() -> None:
    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        for _ in range(2):
            await connection.send_message(f"you said {await connection.get_message()!s}")

    async with builder(serve) as address:
        opened = conversation(
            f"ws://{address}/",
            ping_interval_s=60,
            pong_timeout_s=60,
            connect_timeout_s=60,
            max_message_bytes=1 << 20,
        )
        async with opened as (inbox, send):
            await send("a")
            await send("\u00fc")
            assert [await anext(inbox) for _ in range(2)] == [
                (b"you said a", False),
                ("you said \u00fc".encode(), False),
            ]
            with pytest.raises(ConnectionBroken):
                await anext(inbox)
            with pytest.raises(ConnectionBroken, match=f"ws://{address}"):
                await send("late")


async def test_a_send_that_is_cancelled_leaves_whole_frames() -> None:
    said: list[str | bytes] = []

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        said.extend([await connection.get_message() for _ in range(2)])
        await connection.send_message("thanks")

    async with builder(serve) as address:
        opened = conversation(
            f"ws://{address}/",
            ping_interval_s=60,
            pong_timeout_s=60,
            connect_timeout_s=60,
            max_message_bytes=1 << 20,
        )
        async with opened as (inbox, send):
            with trio.CancelScope() as scope:
                scope.cancel()
                await send("x" * 500_000)
            await send("b")
            await anext(inbox)
    assert [len(each) for each in said] == [500_000, 1]
