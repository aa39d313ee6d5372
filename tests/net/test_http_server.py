import errno
import socket

import pytest
import trio

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Connection, HttpLimits, Upgrade, open_listener
from tests.net.serving import Peer, Running, echo, running, unix_listener

pytestmark = pytest.mark.usefixtures("every_way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_requests_on_one_connection_are_answered_one_after_the_other() -> None:
    async with running(echo) as there:
        peer = await there.connect()

        first = await peer.ask(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        second = await peer.ask(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (first.status, first.body) == (200, b"POST /a hi")
        assert (second.status, second.body) == (200, b"GET /b ")
        assert there.count("accepted") == 1
        assert there.count("requests") == 2


async def test_the_server_works_over_tcp_and_knows_its_client() -> None:
    async def tell_peer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, request.peer.encode())

    async with running(tell_peer, listener=open_listener("127.0.0.1:0")) as there:
        peer = await there.connect()

        assert (await peer.ask(GET)).body == b"127.0.0.1"
        assert there.server.address.startswith("127.0.0.1:")
        assert repr(there.server) == f"<HttpServer test on {there.server.address}, 1 connections>"


async def test_an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address() -> None:
    async def tell_peer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, request.peer.encode())

    try:
        listener = open_listener("[::]:0")
    except Exception as error:  # noqa: BLE001 - whatever it is, without IPv6 there is nothing to test
        pytest.skip(f"no IPv6 here: {error}")
    port = listener.getsockname()[1]
    async with running(tell_peer, listener=listener), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        assert (await Peer(stream).ask(GET)).body == b"127.0.0.1"


async def test_pipelined_requests_are_handled_one_at_a_time_and_answered_in_order() -> None:
    running_now = most = 0

    async def slow(request: HttpRequest) -> HttpResponse:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        running_now -= 1
        return HttpResponse(200, request.target.encode())

    async with running(slow) as there:
        peer = await there.connect()
        await peer.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(50)))

        assert [(await peer.answer()).body for _ in range(50)] == [b"/%d" % i for i in range(50)]
        assert most == 1


async def test_while_a_handler_runs_little_is_read_from_its_client(autojump_clock: trio.abc.Clock) -> None:
    """A client that pipelines without end is held back by its socket, not by our memory."""
    go_on = trio.Event()
    started = trio.Event()

    async def block(_: HttpRequest) -> HttpResponse:
        started.set()
        await go_on.wait()
        return HttpResponse(200)

    async with running(block) as there:
        peer = await there.connect()
        await peer.send(GET)
        await started.wait()
        sent = 0
        with trio.move_on_after(1):
            while sent < 50_000_000:
                await peer.send(GET * 1000)
                sent += len(GET) * 1000

        assert sent < 2_000_000  # what the kernel holds
        go_on.set()
        assert (await peer.answer()).status == 200
        await peer.stream.aclose()


async def test_a_chunked_body_comes_whole() -> None:
    async with running(echo) as there:
        peer = await there.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")

        assert (await peer.ask(b"3\r\nllo\r\n0\r\n\r\n")).body == b"POST / hello"


async def test_who_expects_100_continue_gets_it_before_the_body_is_sent() -> None:
    async with running(echo) as there:
        peer = await there.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")

        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await peer.read_exactly(len(interim)) == interim
        assert (await peer.ask(b"hi")).body == b"POST / hi"


async def test_a_large_body_goes_both_ways() -> None:
    body = bytes(range(256)) * 12_000

    async with running(echo, listener=open_listener("127.0.0.1:0")) as there:
        peer = await there.connect()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)

        assert (await peer.ask(head + body)).body == b"POST / " + body


async def test_head_and_statuses_without_body_keep_the_framing() -> None:
    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(204 if request.path == "/204" else 200, b"body")

    async with running(answer) as there:
        peer = await there.connect()

        head = await peer.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", method="HEAD")
        no_content = await peer.ask(b"GET /204 HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (head.headers["content-length"], head.body) == ("4", b"")
        assert (no_content.status, no_content.body) == (204, b"")
        assert (await peer.ask(GET)).body == b"body"


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
async def test_a_client_that_wants_to_close_is_told_so_and_closed(head: bytes) -> None:
    async with running(echo) as there:
        peer = await there.connect()

        answer = await peer.ask(head)

        assert answer.headers["connection"] == "close"
        assert await peer.rest() == b""


async def test_a_handler_that_fails_gives_500_and_ends_nothing() -> None:
    async def fail(request: HttpRequest) -> HttpResponse:
        if request.path == "/group":
            raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])
        if request.path == "/header":
            return HttpResponse(200, headers={"x": "a\r\nb: c"})
        if request.path == "/ok":
            return HttpResponse(200)
        raise RuntimeError("broken")

    async with running(fail) as there:
        peer = await there.connect()

        for path in (b"/", b"/group", b"/header"):
            assert (await peer.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)).status == 500
        assert (await peer.ask(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
        assert there.count("handler_failures") == 3


# Upgrades


async def test_an_upgraded_connection_belongs_to_its_new_protocol() -> None:
    seen: list[object] = []

    async def serve(connection: Connection, rest: bytes) -> None:
        seen.append((connection.peer, rest, connection.socket.getblocking()))
        connection.socket.send(b"by socket, ")
        await connection.stream.send_all(b"by stream: ")
        await connection.stream.send_all(await connection.stream.receive_some())

    async def upgrade(request: HttpRequest) -> Upgrade:
        assert request.upgrade
        return Upgrade({"Sec-WebSocket-Accept": "abc"}, serve)

    async with running(upgrade, listener=open_listener("127.0.0.1:0")) as there:
        peer = await there.connect()
        await peer.send(WEBSOCKET + b"early")

        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-accept: abc\r\n\r\n"
        )
        assert await peer.read_exactly(len(head)) == head
        await peer.send(b"late")
        assert await peer.rest() == b"by socket, by stream: late"
        assert seen == [("127.0.0.1", b"early", False)]
        assert there.count("upgrades") == 1


async def test_a_frame_of_20_kb_goes_out_in_one_non_blocking_send() -> None:
    """What fan-out builds on: trio would let no more than 16 KiB wait in the kernel."""
    sent: list[int] = []

    async def serve(connection: Connection, _: bytes) -> None:
        sent.extend(connection.socket.send(bytes(20_000)) for _ in range(5))

    async def upgrade(_: HttpRequest) -> Upgrade:
        return Upgrade({}, serve)

    async with running(upgrade, listener=open_listener("127.0.0.1:0")) as there:
        peer = await there.connect()
        await peer.send(WEBSOCKET)

        assert (await peer.rest()).endswith(bytes(100_000))
        assert sent == [20_000] * 5


async def test_a_refused_upgrade_closes_the_connection_after_the_answer() -> None:
    async def refuse(_: HttpRequest) -> HttpResponse:
        return HttpResponse(429, b"too many", {"Retry-After": "5"})

    async with running(refuse) as there:
        peer = await there.connect()

        answer = await peer.ask(WEBSOCKET + b"a frame that was sent too early")

        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert answer.headers["connection"] == "close"
        assert await peer.rest() == b""


async def test_an_upgrade_that_nobody_asked_for_is_the_handlers_failure() -> None:
    async def serve(_: Connection, __: bytes) -> None:
        raise AssertionError("not reached")

    async def upgrade(_: HttpRequest) -> Upgrade:
        return Upgrade({}, serve)

    async with running(upgrade) as there:
        peer = await there.connect()

        assert (await peer.ask(GET)).status == 500


@pytest.mark.parametrize("error", [RuntimeError("broken"), trio.BrokenResourceError("gone"), OSError("gone")])
async def test_an_upgraded_connection_that_fails_ends_alone(error: Exception) -> None:
    async def serve(_: Connection, __: bytes) -> None:
        raise error

    async def handle(request: HttpRequest) -> HttpResponse | Upgrade:
        return Upgrade({}, serve) if request.upgrade else HttpResponse(200)

    async with running(handle) as there:
        broken, well = await there.connect(), await there.connect()
        await broken.send(WEBSOCKET)

        assert (await broken.rest()).startswith(b"HTTP/1.1 101 ")
        assert (await well.ask(GET)).status == 200


# Limits of the server as a whole


async def wait_until_connections(there: Running, number: int) -> None:
    for _ in range(5000):
        if there.count("connections") == number:
            return
        await trio.sleep(0.001)
    raise AssertionError(f"{there.server!r} instead of {number}")


async def test_over_the_limit_of_connections_clients_get_503() -> None:
    async with running(echo, limits=HttpLimits(max_connections=2)) as there:
        first, second = await there.connect(), await there.connect()
        assert [(await peer.ask(GET)).status for peer in (first, second)] == [200, 200]

        third = await there.connect()

        answer = await third.answer()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert await third.rest() == b""
        assert (await second.ask(GET)).status == 200
        assert there.count("refused") == 1
        await first.stream.aclose()
        await wait_until_connections(there, 1)
        assert (await (await there.connect()).ask(GET)).status == 200


async def test_a_client_over_the_limit_that_asked_already_still_reads_its_503() -> None:
    listener = open_listener("127.0.0.1:0")
    async with running(echo, limits=HttpLimits(max_connections=1), listener=listener) as there:
        first = await there.connect()
        assert (await first.ask(GET)).status == 200
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(GET)  # before the server's task runs
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))

            assert (await Peer(stream).answer()).status == 503


async def test_many_kept_connections_up_to_the_limit_disturb_nobody() -> None:
    limit = 400
    async with running(echo, limits=HttpLimits(max_connections=limit)) as there:
        idle = [await there.connect() for _ in range(limit)]
        assert {(await peer.ask(GET)).status for peer in idle} == {200}

        refused = [await there.connect() for _ in range(20)]

        assert {(await peer.answer()).status for peer in refused} == {503}
        assert {(await peer.ask(GET)).status for peer in idle[::40]} == {200}
        for peer in idle:
            peer.stream.socket.close()
        await wait_until_connections(there, 0)


class Exhausted(socket.socket):
    """A listener whose process is out of descriptors three times, and then loses a client."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(0), "injected")
        return super().accept()


async def test_out_of_descriptors_the_server_pauses_and_goes_on(autojump_clock: trio.abc.Clock) -> None:
    listener = unix_listener(Exhausted)
    assert isinstance(listener, Exhausted)
    listener.failures = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED]
    async with running(echo, listener=listener) as there:
        begin = trio.current_time()
        peer = await there.connect()

        assert (await peer.ask(GET)).status == 200
        assert there.count("accept_pauses") == 3
        assert 0.3 <= trio.current_time() - begin < 1


async def test_statistics_are_plain_values() -> None:
    async with running(echo) as there:
        statistics = there.server.statistics()

        assert statistics["connections"] == 0
        assert all(isinstance(value, int | str) for value in statistics.values())
