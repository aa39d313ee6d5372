"""Websocket connections on which both ends talk, over real sockets."""

import gc
import math
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from appliance.net import duplex as duplex_module
from appliance.net import duplex_server
from appliance.net.duplex import Duplex, DuplexLimits, Refusal, answer, dial
from appliance.net.duplex_handshake import ask
from appliance.net.duplex_server import DuplexServer
from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken, WebsocketRefused
from appliance.net.listening import open_listener
from appliance.net.opening import parse_url, transport_of
from tests.net.upstreams import TLS_FILES, client_tls, server_tls
from tests.support.eventually import eventually

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
QUICK = DuplexLimits(ping_interval_s=0.05, pong_timeout_s=0.05)
PATIENT = DuplexLimits(pong_timeout_s=60)
Handler = Callable[[Duplex], Awaitable[None]]


@dataclass
class Serving:
    server: DuplexServer
    address: str
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://{self.address}/replication"


async def echo(duplex: Duplex) -> None:
    while True:
        await duplex.send(await duplex.receive())


def anyone(_target: str, _headers: Mapping[str, str]) -> Refusal | None:
    return None


@asynccontextmanager
async def serving(
    handler: Handler = echo,
    authorize: Callable[[str, Mapping[str, str]], Refusal | None] = anyone,
    tls: ssl.SSLContext | None = None,
    limits: DuplexLimits | None = None,
) -> AsyncIterator[Serving]:
    listener = open_listener("127.0.0.1:0")
    errors: list[BaseException] = []

    async def handle(duplex: Duplex) -> None:
        try:
            await handler(duplex)
        except (ConnectionBroken, BadResponse) as error:
            errors.append(error)

    address = f"127.0.0.1:{listener.getsockname()[1]}"
    server = DuplexServer(handle, listener, authorize, ssl_context=tls, limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        try:
            yield Serving(server, address, errors)
        finally:
            nursery.cancel_scope.cancel()


async def read_to_end(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(60):
        while more := await stream.receive_some():
            data += more
    return data


async def collect(duplex: Duplex, got: list[bytes]) -> None:
    while True:
        got.append(await duplex.receive())


async def raw(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(HANDSHAKE)
    assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return stream


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """Up to these bytes and not further, however they come."""
    data = bytearray()
    while not data.endswith(end):
        byte = await stream.receive_some(1)
        assert byte, f"closed after {bytes(data)!r}"
        data += byte
    return bytes(data)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536, 3_000_000])
async def test_messages_come_back_as_they_went(size: int) -> None:
    async with serving() as there, dial(there.url) as duplex:
        for message in (bytes(size), b"\xff" * size):
            await duplex.send(message)
            assert await duplex.receive() == message


async def test_the_order_is_kept_and_many_may_send_at_the_same_time() -> None:
    async with serving() as there, dial(there.url) as duplex:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(duplex.send, bytes([number]) * (number * 1000))
        got = [await duplex.receive() for _ in range(50)]
    assert sorted(got) == sorted(bytes([number]) * (number * 1000) for number in range(50))


async def test_what_is_sent_at_once_keeps_its_place_among_what_waits() -> None:
    got: list[bytes] = []
    messages = [bytes([number]) * size for number in range(8) for size in (10, 100_000, 3_000_000)]

    async def slowly(duplex: Duplex) -> None:
        while len(got) < len(messages):
            got.append(await duplex.receive())
            await trio.lowlevel.checkpoint()

    at_once = 0
    async with serving(slowly) as there, dial(there.url) as duplex:
        for message in messages:
            if duplex.send_now(message):
                at_once += 1
            else:
                await duplex.send(message)
        await eventually(lambda: len(got) == len(messages))
    assert got == messages
    assert 0 < at_once < len(messages)  # the kernel does not take all of a large one: the next one waits for its rest


async def test_the_rest_of_what_was_sent_at_once_goes_out_by_itself() -> None:
    got: list[bytes] = []
    async with serving(lambda duplex: collect(duplex, got)) as there, dial(there.url) as duplex:
        assert duplex.send_now(bytes(5_000_000))
        assert not duplex.send_now(b"next")
        await eventually(lambda: got == [bytes(5_000_000)])
        await eventually(lambda: duplex.send_now(b"next"))
        await eventually(lambda: got[1:] == [b"next"])


@asynccontextmanager
async def reading_nothing() -> AsyncIterator[str]:
    listener = open_listener("127.0.0.1:0")

    async def answer() -> None:
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as accepting:
            stream = await accepting.accept()
            async with stream:
                connection = WSConnection(ConnectionType.SERVER)
                while not any(isinstance(event, Request) for event in connection.events()):
                    connection.receive_data(await stream.receive_some())
                await stream.send_all(connection.send(AcceptConnection()))
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def test_nothing_is_sent_at_once_into_a_frame_that_is_being_sent() -> None:
    async with reading_nothing() as url, dial(url) as duplex, trio.open_nursery() as nursery:
        nursery.start_soon(duplex.send, bytes(30_000_000))
        await trio.testing.wait_all_tasks_blocked()
        assert not duplex.send_now(b"x")
        nursery.cancel_scope.cancel()


async def test_a_rest_that_nobody_reads_ends_the_connection() -> None:
    limits = DuplexLimits(send_timeout_s=0.1, pong_timeout_s=60)
    async with reading_nothing() as url, dial(url, limits=limits) as duplex:
        assert duplex.send_now(bytes(30_000_000))
        with pytest.raises(ConnectionBroken, match="does not read"):
            await duplex.receive()
        assert not duplex.send_now(b"x")


async def test_what_cannot_be_sent_at_once_because_the_other_end_is_gone_ends_the_connection() -> None:
    async with serving() as there, dial(there.url) as duplex:
        transport_of(duplex._stream).socket.shutdown(socket.SHUT_WR)
        duplex.send_now(b"x")
        with pytest.raises(ConnectionBroken):
            await duplex.receive()
        assert not duplex.send_now(b"y")
        with pytest.raises(ConnectionBroken):
            await duplex.send(b"z")


async def test_who_is_refused_hears_why() -> None:
    seen: list[tuple[str, str | None]] = []

    def nobody(target: str, headers: Mapping[str, str]) -> Refusal | None:
        seen.append((target, headers.get("authorization")))
        return Refusal(401, "not with this secret")

    async with serving(authorize=nobody) as there:
        with pytest.raises(WebsocketRefused, match="HTTP 401: not with this secret") as caught:
            async with dial(there.url, headers={"authorization": "Bearer x"}):
                pass
        assert caught.value.status == 401
        assert seen == [("/replication", "Bearer x")]
        assert there.server.refused == 1


async def test_nobody_there_is_connect_failed() -> None:
    with pytest.raises(ConnectFailed, match="no connection to ws://127"):
        async with dial("ws://127.0.0.77:9/"):
            pass


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", b"HTTP/1.1 400"),
    ],
)
async def test_what_is_no_websocket_is_closed_and_the_others_go_on(request_bytes: bytes, answer: bytes) -> None:
    async with serving() as there, dial(there.url) as duplex:
        host, _, port = there.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request_bytes)
            assert (await read_to_end(stream))[: len(answer) or None] == answer
        await duplex.send(b"still here")
        assert await duplex.receive() == b"still here"


@pytest.mark.parametrize("header", [b"host: \xff", b"connection: upgr\xff", b"sec-websocket-protocol: \xff"])
async def test_a_handshake_that_is_no_ascii_is_closed(header: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as there:
        host, _, port = there.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(HANDSHAKE.replace(b"host: h", header))
            await read_to_end(stream)
        await eventually(lambda: there.server.connections == 0)
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("header", [b"connection: \xff", b"sec-websocket-protocol: \xff"])
async def test_an_answer_that_is_no_ascii_is_connect_failed(header: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n" + header + b"\r\n\r\n")

    listener = open_listener("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        there = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(trio.serve_listeners, answer, [there])
        with pytest.raises(ConnectFailed, match="no websocket handshake"):
            async with dial(f"ws://127.0.0.1:{listener.getsockname()[1]}"):
                pass
        nursery.cancel_scope.cancel()


async def test_clients_that_say_nothing_keep_no_peer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex_server, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(duplex_server, "NEWCOMER_S", 60.0)
    async with serving(limits=DuplexLimits(handshake_timeout_s=60)) as there, dial(there.url) as first:
        host, _, port = there.address.rpartition(":")
        silent = [await trio.open_tcp_stream(host, int(port)) for _ in range(2)]
        await eventually(lambda: there.server.connections == 3)
        with pytest.raises(ConnectFailed):
            async with dial(there.url):  # in a flood newcomers do not close one another
                pass
        monkeypatch.setattr(duplex_server, "NEWCOMER_S", 0.0)  # as if that time were over
        async with dial(there.url) as second:
            for duplex in (first, second):
                await duplex.send(b"here")
                assert await duplex.receive() == b"here"
            assert await read_to_end(silent[0]) == b""  # the oldest went
        for stream in silent:
            await stream.aclose()


async def test_who_says_nothing_is_closed_at_the_deadline_of_the_handshake() -> None:
    async with serving(limits=DuplexLimits(handshake_timeout_s=0.05)) as there:
        host, _, port = there.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            assert await read_to_end(stream) == b""


async def test_a_server_that_says_nothing_is_given_up(mock_clock: trio.testing.MockClock) -> None:
    async def hear_and_say_nothing(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        mock_clock.jump(DuplexLimits().handshake_timeout_s)
        await read_to_end(stream)

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(open_listener("127.0.0.1:0")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hear_and_say_nothing, [listener])
        with pytest.raises(ConnectFailed, match="in time"):
            async with dial(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"):
                pass
        nursery.cancel_scope.cancel()


async def test_a_peer_that_hangs_is_noticed_by_its_pongs() -> None:
    async with serving(limits=QUICK) as there:
        async with await raw(there.address) as stream:  # never answers a ping
            await read_to_end(stream)
        await eventually(lambda: bool(there.errors))
        assert "after a ping" in str(there.errors[0])


async def test_a_peer_that_only_listens_stays(autojump_clock: trio.abc.Clock) -> None:
    """Over a pair of sockets, which deliver at once: virtual time would not wait for what is on its way over TCP."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    errors: list[str] = []

    async def serve() -> None:
        try:
            async with answer(theirs, "peer", anyone, limits=QUICK) as duplex:
                assert duplex is not None
                await echo(duplex)
        except ConnectionBroken as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        connection = await ask(ours, parse_url("ws://peer", "ws"), {})
        async with duplex_module._opened(Duplex(ours, connection, "peer", QUICK)) as duplex:
            await trio.sleep(60)
            await duplex.send(b"still here")
            assert await duplex.receive() == b"still here"
        await ours.aclose()
    assert errors == ["peer closed the websocket (1001 no reason given)"]


async def test_a_peer_that_does_not_read_ends_its_connection_only() -> None:
    sent = 0

    async def pour(duplex: Duplex) -> None:
        nonlocal sent
        while True:
            await duplex.send(bytes(1_000_000))
            sent += 1

    limits = DuplexLimits(send_timeout_s=0.1, pong_timeout_s=60)
    async with serving(pour, limits=limits) as there:
        host, _, port = there.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(HANDSHAKE)
            await eventually(lambda: bool(there.errors))
        assert "does not read" in str(there.errors[0])
        assert sent < 100


async def test_a_reader_that_falls_behind_loses_the_connection_not_a_message() -> None:
    async def pour(duplex: Duplex) -> None:
        for number in range(100):
            await duplex.send(bytes([number]) * 1000)
        await trio.sleep_forever()

    limits = DuplexLimits(max_inbox_bytes=20_000)
    async with serving(pour) as there, dial(there.url, limits=limits) as duplex:
        await trio.testing.wait_all_tasks_blocked(0.05)
        got: list[bytes] = []
        with pytest.raises(ConnectionBroken, match="too many messages"):
            await collect(duplex, got)
        assert [message[0] for message in got] == list(range(len(got)))
        assert 0 < len(got) <= 20


async def test_a_message_over_the_bound_ends_the_connection() -> None:
    async with serving(limits=DuplexLimits(max_message_bytes=1000)) as there, dial(there.url) as duplex:
        await duplex.send(bytes(1001))
        with pytest.raises(ConnectionBroken):
            await duplex.receive()
        assert "over 1000 bytes" in str(there.errors[0])


@pytest.mark.parametrize(
    "frame", [b"\x81\x01a", b"\xff\xff\xff\xff", b"\x82\x81\x00\x00\x00\x00a\x81\x81\x00\x00\x00\x00a"]
)
async def test_frames_that_are_none_of_ours_end_the_connection(frame: bytes) -> None:
    async with serving() as there:
        async with await raw(there.address) as stream:
            await stream.send_all(frame)
            await read_to_end(stream)
        await eventually(lambda: bool(there.errors))


@pytest.mark.parametrize("frame", [b"\x8a\x80\x00\x00\x00\x00", b"\x00\x80\x00\x00\x00\x00"])
async def test_floods_of_small_frames_leave_the_others_their_turns(
    frame: bytes, request: pytest.FixtureRequest
) -> None:
    """Pongs, or empty pieces of a message that does not end."""
    steps = Steps()
    request.addfinalizer(gc.enable)
    gc.disable()  # what it takes depends on all that this process has done
    async with (
        serving(limits=PATIENT) as there,
        dial(there.url, limits=PATIENT) as duplex,
        await raw(there.address) as stream,
    ):
        await stream.send_all(b"\x02\x80\x00\x00\x00\x00" if frame[0] == 0 else frame)
        trio.lowlevel.add_instrument(steps)
        await stream.send_all(frame * 40_000)
        await duplex.send(b"still here")
        assert await duplex.receive() == b"still here"
        await stream.send_all(b"\x80\x80\x00\x00\x00\x00" if frame[0] == 0 else b"\x82\x80\x00\x00\x00\x00")
        await read_until(stream, b"\x82\x00")
        trio.lowlevel.remove_instrument(steps)
    assert steps.longest_s < 0.05


async def test_pieces_of_a_message_cost_only_what_is_in_them() -> None:
    async with serving(limits=PATIENT) as there, await raw(there.address) as stream:
        await stream.send_all(b"\x02\x80\x00\x00\x00\x00")
        tracemalloc.start()
        await stream.send_all(b"\x00\x80\x00\x00\x00\x00" * 8_000 + b"\x89\x80\x00\x00\x00\x00")
        await read_until(stream, b"\x8a\x00")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 100_000


class Steps(trio.abc.Instrument):
    """The most CPU time that any task took in one turn of the loop."""

    longest_s = 0.0
    _began = math.inf

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest_s = max(self.longest_s, time.thread_time() - self._began)


async def test_a_server_that_stops_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex_module, "_GOODBYE_S", 60.0)
    async with trio.open_nursery() as nursery:
        async with serving() as there:
            duplex = await nursery.start(keep, there.url)
        with pytest.raises(ConnectionBroken, match=r"closed the websocket \(1001"):
            await duplex.receive()
        nursery.cancel_scope.cancel()


async def keep(url: str, *, task_status: trio.TaskStatus[Duplex]) -> None:
    async with dial(url) as duplex:
        task_status.started(duplex)
        await trio.sleep_forever()


async def test_after_a_send_that_was_cancelled_nothing_follows_half_a_frame() -> None:
    scope = trio.CancelScope()

    async def send(duplex: Duplex) -> None:
        with scope:
            await duplex.send(bytes(30_000_000))

    limits = DuplexLimits(send_timeout_s=60, pong_timeout_s=60)
    async with reading_nothing() as url, dial(url, limits=limits) as duplex:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, duplex)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert scope.cancelled_caught
        with pytest.raises(ConnectionBroken):
            await duplex.send(b"more")


async def test_what_the_body_raises_passes_unchanged() -> None:
    async with serving() as there:
        with pytest.raises(KeyError):
            async with dial(there.url):
                raise KeyError("ours")


async def test_a_handler_that_fails_ends_its_own_connection() -> None:
    async def fail(duplex: Duplex) -> None:
        if await duplex.receive() == b"fail":
            raise RuntimeError("a bug")
        await duplex.send(b"well")

    async with serving(fail) as there, dial(there.url) as one, dial(there.url) as other:
        await one.send(b"fail")
        with pytest.raises(ConnectionBroken):
            await one.receive()
        await other.send(b"do not")
        assert await other.receive() == b"well"


def mutual(*, server: bool) -> ssl.SSLContext:
    context = server_tls() if server else client_tls()
    context.load_verify_locations(TLS_FILES / "certificate.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_who_is_refused_again_and_again_is_said_once_by_each_reason() -> None:
    def judge(target: str, _headers: Mapping[str, str]) -> Refusal:
        return Refusal(404, "not here") if target == "/other" else Refusal(401, f"token {time.monotonic()}")

    with capture_logs() as lines:
        async with serving(authorize=judge) as there:
            for target in ("/replication", "/other", "/replication", "/replication"):
                with pytest.raises(WebsocketRefused):
                    async with dial(f"ws://{there.address}{target}"):
                        pass
            assert there.server.refused == 4
    said = [(line["event"], line["peer_address"], line["status"], line["attempts"]) for line in lines]
    assert said == [("a peer is refused", "127.0.0.1", status, 1) for status in (401, 404)]
    assert lines[1]["reason"] == "not here"


async def test_tls_that_does_not_come_up_is_said_once() -> None:
    with capture_logs() as lines:
        async with serving(tls=server_tls()) as there:
            for _ in range(4):
                with pytest.raises(ConnectFailed):
                    async with dial(there.url):
                        pass
            await eventually(lambda: there.server.refused == 4)
    assert [(line["event"], line["log_level"]) for line in lines] == [("no TLS with a peer", "warning")]


async def test_over_tls_it_is_the_same() -> None:
    async with serving(tls=server_tls()) as there:
        async with dial(f"wss://{there.address}", ssl_context=client_tls()) as duplex:
            assert not duplex.send_now(b"")
            await duplex.send(bytes(1_000_000))
            assert await duplex.receive() == bytes(1_000_000)
        with pytest.raises(ConnectFailed):
            async with dial(there.url):
                pass


async def test_mutual_tls_takes_who_has_a_certificate() -> None:
    async with serving(tls=mutual(server=True)) as there:
        with pytest.raises(ConnectFailed):
            async with dial(f"wss://{there.address}", ssl_context=mutual(server=False)):
                pass
        known = mutual(server=False)
        known.load_cert_chain(TLS_FILES / "certificate.pem", TLS_FILES / "key.pem")
        async with dial(f"wss://{there.address}", ssl_context=known) as duplex:
            await duplex.send(b"known")
            assert await duplex.receive() == b"known"


async def test_an_error_that_comes_with_a_cancellation_is_still_the_bodys_own() -> None:
    async def cancel_and_fail(url: str) -> None:
        with trio.CancelScope() as scope:
            async with dial(url):
                scope.cancel()
                raise KeyError("ours")

    async with serving() as there:
        with pytest.raises(KeyError):
            await cancel_and_fail(there.url)
