"""How a server stops."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Connection, Upgrade, open_listener
from tests.net.serving import Peer, echo, running

pytestmark = pytest.mark.usefixtures("every_way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_idle_connections_are_closed_and_no_new_ones_taken() -> None:
    async with running(echo, listener=open_listener("127.0.0.77:0")) as there:  # nobody else's once it is closed
        fresh, used = await there.connect(), await there.connect()
        assert (await used.ask(GET)).status == 200

        there.stopping.set()

        assert await fresh.rest() == b""
        assert await used.rest() == b""
        with pytest.raises(OSError, match="refused"):
            await there.connect()


async def test_a_request_in_work_is_answered_and_told_that_it_was_the_last() -> None:
    started, go_on = trio.Event(), trio.Event()

    async def slow(_: HttpRequest) -> HttpResponse:
        started.set()
        await go_on.wait()
        return HttpResponse(200, b"done")

    async with running(slow) as there:
        peer = await there.connect()
        await peer.send(GET + GET)
        await started.wait()
        there.stopping.set()
        await wait_all_tasks_blocked()

        go_on.set()
        answer = await peer.answer()

        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert await peer.rest() == b""
        assert there.count("requests") == 1


async def test_a_request_that_is_half_there_may_finish() -> None:
    async with running(echo) as there:
        peer = await there.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        await wait_all_tasks_blocked()
        there.stopping.set()
        await wait_all_tasks_blocked()

        answer = await peer.ask(b"hi")

        assert (answer.body, answer.headers["connection"]) == (b"POST / hi", "close")


@pytest.mark.parametrize("turns", range(-4, 5))
@pytest.mark.parametrize("request_bytes", [GET, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"])
async def test_who_asks_as_the_server_stops_is_answered_or_finds_the_connection_closed(
    request_bytes: bytes, turns: int
) -> None:
    """However much of the request has come, wherever the server is with it: no 408, and before the stop not nothing."""
    peers: list[tuple[Peer, int]] = []
    async with running(echo) as there:
        for sent in (1, 20, len(request_bytes) - 2, len(request_bytes)):
            fresh, used = await there.connect(), await there.connect()
            await used.ask(GET)
            peers += [(fresh, sent), (used, sent)]
        await wait_all_tasks_blocked()
        if turns < 0:
            there.stopping.set()
            for _ in range(-turns):
                await trio.lowlevel.checkpoint()
        for peer, sent in peers:
            peer.send_now(request_bytes[:sent])
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        there.stopping.set()

        for peer, sent in peers:
            peer.send_now(request_bytes[sent:])
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 200") or (answer == b"" and turns < 0), (sent, answer)


@pytest.mark.parametrize("count", [1, 40])
async def test_who_asked_before_the_stop_is_answered_though_nobody_had_accepted_him(count: int) -> None:
    async with running(echo) as there:
        waiting = [there.connect_now() for _ in range(count)]
        silent = there.connect_now()
        for peer in waiting:
            peer.send_now(GET)
        there.stopping.set()

        for peer in waiting:
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer
        assert await silent.rest() == b""


async def test_what_outlasts_the_drain_is_cancelled(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def never(request: HttpRequest) -> HttpResponse | Upgrade:
        async def serve(_: Connection, __: bytes) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("upgraded")

        if request.upgrade:
            return Upgrade({}, serve)
        try:
            await trio.sleep_forever()
        finally:
            ended.append("handler")
        raise AssertionError("not reached")

    async with running(never, drain_timeout_s=7) as there:
        asking, upgraded, half = await there.connect(), await there.connect(), await there.connect()
        await asking.send(GET)
        await upgraded.send(b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await half.send(b"GET / HTTP/1.1\r\n")
        await wait_all_tasks_blocked()

        there.stopping.set()

        assert await asking.rest() == b""
        assert await half.rest() == b""
        assert (await upgraded.rest()).startswith(b"HTTP/1.1 101")
        assert trio.current_time() == pytest.approx(7, abs=0.01)
        assert sorted(ended) == ["handler", "upgraded"]


async def test_an_upgraded_connection_has_the_drain_to_say_goodbye(autojump_clock: MockClock) -> None:
    goodbye = trio.Event()

    async def upgrade(_: HttpRequest) -> Upgrade:
        async def serve(connection: Connection, _: bytes) -> None:
            await goodbye.wait()
            await connection.stream.send_all(b"bye")

        return Upgrade({}, serve)

    async with running(upgrade, drain_timeout_s=7) as there:
        peer = await there.connect()
        await peer.send(b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await wait_all_tasks_blocked()
        there.stopping.set()
        await trio.sleep(5)

        goodbye.set()

        assert (await peer.rest()).endswith(b"bye")


async def test_a_server_that_is_stopped_before_it_served_ends_at_once(autojump_clock: MockClock) -> None:
    async with running(echo) as there:
        there.stopping.set()

    assert trio.current_time() == 0


async def test_a_server_that_is_cancelled_closes_its_socket() -> None:
    listener = open_listener("127.0.0.1:0")
    with trio.CancelScope() as scope:
        async with running(echo, listener=listener) as there:
            peer = await there.connect()
            assert (await peer.ask(GET)).status == 200
            scope.cancel()
            await trio.sleep_forever()

    assert listener.fileno() == -1
