"""What only a server with a quick handler does. The other modules say of all ways what every server does."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from structlog.testing import capture_logs

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HandOver, HttpLimits, Upgrade
from appliance.net.quick_session import Turn
from tests.net import serving
from tests.net.serving import Peer, Running, running
from tests.support.eventually import eventually

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


@dataclass
class Quick:
    """Holds requests until the test answers them; ``takes`` false leaves them to the handler."""

    takes: bool = True
    turns: list[tuple[HttpRequest, Turn]] = field(default_factory=list)
    cancelled: int = 0
    in_tasks: int = 0

    def begin(self, request: HttpRequest, turn: Turn) -> bool:
        if self.takes:
            turn.on_cancel = self._on_cancel
            self.turns.append((request, turn))
        return self.takes

    def _on_cancel(self) -> None:
        self.cancelled += 1

    async def handle(self, request: HttpRequest) -> HttpResponse | Upgrade | HandOver:
        self.in_tasks += 1
        return answer_to(request)

    async def next(self) -> tuple[HttpRequest, Turn]:
        await eventually(lambda: bool(self.turns))
        return self.turns.pop(0)

    async def reply(self) -> None:
        request, turn = await self.next()
        turn.reply(answer_to(request))


def answer_to(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, f"{request.target} ".encode() + request.body)


@asynccontextmanager
async def quick_server(quick: Quick, limits: HttpLimits | None = None) -> AsyncGenerator[tuple[Running, Peer], None]:
    serving.ways.append(lambda *_: quick.begin)
    try:
        async with running(quick.handle, limits=limits) as there:
            peer = await there.connect()
            await trio.testing.wait_all_tasks_blocked()  # what is there already when a connection begins has its task
            yield there, peer
    finally:
        serving.ways.pop()


async def test_requests_are_answered_one_after_the_other_and_no_task_has_them() -> None:
    quick = Quick()
    async with quick_server(quick) as (there, peer):
        for number in range(20):
            await peer.send(POST % number)
            await quick.reply()
            assert (await peer.answer()).body == b"/%d body" % number
        assert (quick.in_tasks, quick.cancelled, there.count("requests")) == (0, 0, 20)


async def test_an_answer_may_come_before_the_handler_returns() -> None:
    def begin(request: HttpRequest, turn: Turn) -> bool:
        turn.reply(answer_to(request))
        return True

    quick = Quick()
    quick.begin = begin  # type: ignore[method-assign]
    async with quick_server(quick) as (_, peer):
        for _ in range(3):
            assert (await peer.ask(GET)).body == b"/ "


async def test_what_the_quick_handler_leaves_has_the_task() -> None:
    quick = Quick(takes=False)
    async with quick_server(quick) as (there, peer):
        for _ in range(3):
            assert (await peer.ask(GET)).body == b"/ "
        assert (quick.in_tasks, there.count("requests")) == (3, 3)


async def test_a_request_in_pieces_and_several_at_once_are_the_tasks_and_then_it_is_quick_again() -> None:
    quick = Quick()
    async with quick_server(quick) as (_, peer):
        await peer.send(POST[:30])
        await trio.testing.wait_all_tasks_blocked(0.001)
        await peer.send((POST[30:]) + (POST % 2))
        assert [(await peer.answer()).body for _ in range(2)] == [b"/%d body", b"/2 body"]
        assert (quick.in_tasks, quick.turns) == (2, [])
        await peer.send(GET)
        await quick.reply()
        assert (await peer.answer()).status == 200


async def test_what_comes_while_a_request_is_handled_is_answered_after_it() -> None:
    quick = Quick()
    async with quick_server(quick) as (_, peer):
        await peer.send(POST % 1)
        first = await quick.next()
        await peer.send(POST % 2)
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert quick.turns == []  # one at a time
        first[1].reply(answer_to(first[0]))
        assert (await peer.answer()).body == b"/1 body"
        assert (await peer.answer()).body == b"/2 body"
        assert quick.in_tasks == 1


async def test_rubbish_behind_a_request_is_refused_after_its_answer() -> None:
    quick = Quick()
    async with quick_server(quick) as (_, peer):
        await peer.send(GET + b"rubbish\r\n\r\n")
        assert [(await peer.answer()).status for _ in range(2)] == [200, 400]
        assert await peer.rest() == b""


async def test_half_a_request_behind_one_has_its_deadline(autojump_clock: object) -> None:
    quick = Quick()
    async with quick_server(quick, HttpLimits(header_timeout_s=4.0)) as (_, peer):
        await peer.send(GET + b"GET / HT")
        assert (await peer.answer()).status == 200
        assert (await peer.answer()).status == 408
        assert trio.current_time() < 6


async def test_between_two_quick_requests_the_idle_timeout_holds(autojump_clock: object) -> None:
    quick = Quick()
    async with quick_server(quick, HttpLimits(idle_timeout_s=16.0)) as (_, peer):
        for _ in range(3):
            await peer.send(GET)
            await quick.reply()
            await peer.answer()
            await trio.sleep(12)
        assert await peer.rest() == b""
        assert 40 <= trio.current_time() <= 40 + 2


async def test_a_client_that_leaves_cancels_what_it_asked_for_once() -> None:
    quick = Quick()
    async with quick_server(quick) as (there, peer):
        await peer.send(POST % 1)
        await quick.next()
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert (quick.cancelled, there.count("cancelled_by_client"), there.count("connections")) == (1, 1, 0)


async def test_a_client_that_asks_and_leaves_in_one_breath_is_not_served() -> None:
    quick = Quick()
    async with quick_server(quick) as (there, peer):
        await trio.testing.wait_all_tasks_blocked(0.001)
        await peer.send(POST % 1)
        await peer.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert there.count("connections") == 0
        assert quick.cancelled == len(quick.turns)


async def test_a_server_that_stops_answers_what_it_has_and_says_so() -> None:
    quick = Quick()
    async with quick_server(quick) as (there, peer):
        idle = await there.connect()
        await peer.send(GET)
        request, turn = await quick.next()
        there.stopping.set()
        assert await idle.rest() == b""
        turn.reply(answer_to(request))
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await peer.rest() == b""
        assert there.count("requests") == 1


async def test_an_answer_that_does_not_go_out_whole_is_sent_by_the_task() -> None:
    quick = Quick()
    body = bytes(3_000_000)
    async with quick_server(quick) as (_, peer):
        await peer.send(GET)
        turn = (await quick.next())[1]
        turn.reply(HttpResponse(200, body))
        assert (await peer.answer()).body == body
        await peer.send(GET)
        await quick.reply()
        assert (await peer.answer()).status == 200


async def test_who_does_not_read_a_quick_answer_is_closed(autojump_clock: object) -> None:
    quick = Quick()
    async with quick_server(quick, HttpLimits(write_timeout_s=8.0)) as (there, peer):
        await peer.send(GET)
        turn = (await quick.next())[1]
        turn.reply(HttpResponse(200, bytes(10_000_000)))
        await trio.sleep(8 + 2)
        await trio.testing.wait_all_tasks_blocked()
        assert (there.count("write_timeouts"), there.count("connections")) == (1, 0)


async def test_a_request_that_is_handed_over_goes_on_in_the_task() -> None:
    async def go_on(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return answer_to(request)

    quick = Quick()
    async with quick_server(quick) as (there, peer):
        for number in range(3):
            await peer.send(POST % number)
            request, turn = await quick.next()
            turn.hand_over(partial(go_on, request))
            assert (await peer.answer()).body == b"/%d body" % number
        assert (quick.in_tasks, there.count("requests")) == (0, 3)


async def test_a_client_that_leaves_after_the_hand_over_cancels_the_task() -> None:
    ended: list[BaseException] = []

    async def go_on() -> HttpResponse:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            ended.append(error)
            raise
        raise AssertionError

    quick = Quick()
    async with quick_server(quick) as (there, peer):
        await peer.send(GET)
        (await quick.next())[1].hand_over(go_on)
        await trio.testing.wait_all_tasks_blocked(0.001)
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert (len(ended), quick.cancelled, there.count("cancelled_by_client")) == (1, 0, 1)


async def test_a_quick_handler_that_fails_gives_500_and_the_connection_goes_on() -> None:
    def begin(request: HttpRequest, turn: Turn) -> bool:
        raise ZeroDivisionError

    quick = Quick()
    quick.begin = begin  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with quick_server(quick) as (there, peer):
            assert [(await peer.ask(GET)).status for _ in range(2)] == [500, 500]
            assert there.count("handler_failures") == 2
    assert {line["event"] for line in logs} == {"handler failed"}


async def test_a_reset_under_an_answer_ends_that_connection_alone() -> None:
    quick = Quick()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    serving.ways.append(lambda *_: quick.begin)
    try:
        async with running(quick.handle, listener=listener) as there:
            client = socket.create_connection(listener.getsockname()[:2])
            await eventually(lambda: there.count("connections") == 1)
            await trio.testing.wait_all_tasks_blocked()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.send(GET)
            _, turn = await quick.next()
            client.close()  # a reset, and the answer goes out before the loop has heard of it
            turn.reply(HttpResponse(200, b"late"))
            await eventually(lambda: there.count("connections") == 0)
            other = await there.connect()
            await eventually(lambda: there.count("connections") == 1)
            await trio.testing.wait_all_tasks_blocked()
            await other.send(GET)
            await quick.reply()
            assert (await other.answer()).status == 200
    finally:
        serving.ways.pop()


async def test_bodies_of_quick_requests_give_their_room_back() -> None:
    quick = Quick()
    body = bytes(300_000)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with quick_server(quick) as (there, peer):
        for _ in range(2):
            await peer.send(head + body)
            assert len((await peer.answer()).body) == 2 + len(body)
            await peer.send(head.replace(b"300000", b"60000") + body[:60_000])
            await quick.reply()
            assert len((await peer.answer()).body) == 2 + 60_000
        await trio.testing.wait_all_tasks_blocked()
        assert (there.count("body_bytes"), quick.in_tasks) == (0, 2)


class Counted(HttpResponse):
    """Counts how often the server said that it was sent."""

    __slots__ = ("times",)

    def __init__(self, body: bytes) -> None:
        super().__init__(200, body)
        self.times = 0

    def sent(self) -> None:
        self.times += 1


async def test_a_response_hears_once_that_it_was_sent_however_it_goes_out() -> None:
    quick = Quick()
    async with quick_server(quick) as (_, peer):
        small, large, handed = Counted(b"a"), Counted(bytes(3_000_000)), Counted(b"b")

        async def give() -> HttpResponse:
            return handed

        for response in (small, large):
            await peer.send(GET)
            (await quick.next())[1].reply(response)
            assert (await peer.answer()).body == response.body
        await peer.send(GET)
        (await quick.next())[1].hand_over(give)
        assert (await peer.answer()).body == b"b"
        await eventually(lambda: [each.times for each in (small, large, handed)] == [1, 1, 1])


async def test_a_response_that_nobody_reads_hears_it_at_the_write_timeout(autojump_clock: object) -> None:
    quick = Quick()
    response = Counted(bytes(10_000_000))
    async with quick_server(quick, HttpLimits(write_timeout_s=8.0)) as (_, peer):
        await peer.send(GET)
        (await quick.next())[1].reply(response)
        await trio.testing.wait_all_tasks_blocked()
        assert response.times == 0
        await trio.sleep(8 + 2)
        await trio.testing.wait_all_tasks_blocked()
        assert response.times == 1


async def test_a_response_to_a_client_that_has_gone_hears_it_too() -> None:
    quick = Quick()
    response = Counted(bytes(10_000_000))
    async with quick_server(quick) as (_, peer):
        await peer.send(GET)
        (await quick.next())[1].reply(response)
        await peer.stream.aclose()
        await eventually(lambda: response.times == 1)
