"""Who says nothing keeps its place only as long as nobody needs it."""

import select

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.http_server import Connection, HttpLimits, Upgrade
from tests.net.serving import Peer, Running, echo, running

pytestmark = pytest.mark.usefixtures("every_way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
PLACES = 8


def limits(**others: float) -> HttpLimits:
    return HttpLimits(max_connections=PLACES, idle_timeout_s=600, **others)  # type: ignore[arg-type]  # times only


async def fill(there: Running, *, number: int = PLACES, said: bytes = b"") -> list[Peer]:
    """Connect, one strictly after the other, and say no more than ``said``."""
    peers = []
    for _ in range(number):
        peers.append(await there.connect())
        if said:
            await peers[-1].send(said)
        await wait_all_tasks_blocked()
    return peers


def has_news(peer: Peer) -> bool:
    """The server sent something, or closed."""
    poll = select.poll()
    poll.register(peer.stream.socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def test_a_first_request_must_come_soon(autojump_clock: MockClock) -> None:
    async with running(echo, limits=limits(first_request_timeout_s=10)) as there:
        silent, asked = await there.connect(), await there.connect()
        assert (await asked.ask(GET)).status == 200
        begin = trio.current_time()

        assert await silent.rest() == b""
        assert 10 <= trio.current_time() - begin <= 11
        await trio.sleep(500)
        assert (await asked.ask(GET)).status == 200  # it has the idle timeout


async def test_a_shorter_idle_timeout_holds_for_the_first_request_too(autojump_clock: MockClock) -> None:
    async with running(echo, limits=HttpLimits(idle_timeout_s=4, first_request_timeout_s=10)) as there:
        silent = await there.connect()

        assert await silent.rest() == b""
        assert trio.current_time() <= 5


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_at_the_limit_a_newcomer_replaces_who_was_silent_longest(mock_clock: MockClock, said: bytes) -> None:
    async with running(echo, limits=limits()) as there:
        silent = await fill(there, said=said)
        mock_clock.jump(2)

        for number in range(3):
            newcomer = await there.connect()
            assert (await newcomer.ask(GET)).status == 200
            assert there.count("connections") == PLACES
            assert there.count("replaced") == number + 1
        gone = [await peer.rest() for peer in silent[:3]]
        assert [data[:13] for data in gone] == [b"HTTP/1.1 503 " if len(said) > 2 else b""] * 3
        assert there.count("refused") == 0
        assert not any(has_news(peer) for peer in silent[3:])


async def test_newcomers_of_a_flood_do_not_replace_one_another_at_once(mock_clock: MockClock) -> None:
    async with running(echo, limits=limits()) as there:
        await fill(there)

        flood = [await there.connect() for _ in range(30)]

        assert {(await peer.answer()).status for peer in flood} == {503}
        assert (there.count("refused"), there.count("replaced")) == (30, 0)


async def test_a_batch_of_newcomers_replaces_each_silent_client_once(mock_clock: MockClock) -> None:
    async with running(echo, limits=limits()) as there:
        await fill(there)
        mock_clock.jump(2)

        batch = [await there.connect() for _ in range(3 * PLACES)]
        await wait_all_tasks_blocked()

        assert there.count("replaced") == PLACES
        assert there.count("refused") == 2 * PLACES
        assert there.count("connections") == PLACES
        open_ones = [peer for peer in batch if not has_news(peer)]
        assert [(await peer.ask(GET)).status for peer in open_ones] == [200] * PLACES


async def test_who_has_asked_once_is_never_replaced(mock_clock: MockClock) -> None:
    async with running(echo, limits=limits()) as there:
        asked = await fill(there)
        assert {(await peer.ask(GET)).status for peer in asked} == {200}
        mock_clock.jump(300)

        assert (await (await there.connect()).answer()).status == 503
        assert {(await peer.ask(GET)).status for peer in asked} == {200}


async def test_who_waits_for_its_first_answer_is_not_replaced(mock_clock: MockClock) -> None:
    go_on = trio.Event()

    async def slow(_: HttpRequest) -> HttpResponse:
        await go_on.wait()
        return HttpResponse(200)

    async with running(slow, limits=limits()) as there:
        asking = await fill(there, said=GET)
        mock_clock.jump(300)

        assert (await (await there.connect()).answer()).status == 503
        go_on.set()
        assert {(await peer.answer()).status for peer in asking} == {200}


async def test_an_upgraded_connection_has_asked(mock_clock: MockClock) -> None:
    go_on = trio.Event()

    async def serve(connection: Connection, _: bytes) -> None:
        await go_on.wait()
        await connection.stream.send_all(b"served")

    async def handle(request: HttpRequest) -> HttpResponse | Upgrade:
        return Upgrade({}, serve) if request.upgrade else HttpResponse(200)

    async with running(handle, limits=limits()) as there:
        upgraded = await fill(there, number=PLACES - 1, said=WEBSOCKET)
        await fill(there, number=1)
        mock_clock.jump(300)
        await wait_all_tasks_blocked()

        assert (await (await there.connect()).ask(GET)).status == 200
        assert (await (await there.connect()).answer()).status == 503
        go_on.set()
        assert all([(await peer.rest()).endswith(b"served") for peer in upgraded])


async def test_a_head_that_was_let_pass_is_enough_where_heads_are_judged(mock_clock: MockClock) -> None:
    """The large first body of a client that we know takes as long as it takes."""

    def on_head(_: str, target: str, __: Headers) -> HttpResponse | None:
        return None if target == "/known" else HttpResponse(401)

    async with running(echo, limits=limits(), on_head=on_head) as there:
        begun = b"POST /known HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
        known = await fill(there, number=PLACES, said=begun)
        mock_clock.jump(20)

        assert (await (await there.connect()).answer()).status == 503
        assert {(await peer.ask(b"hi")).body for peer in known} == {b"POST /known hi"}
