"""Deadlines, bad input and clients that leave, mostly in virtual time."""

import random
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits
from tests.net.serving import Peer, Way, echo, in_a_task, running

pytestmark = pytest.mark.usefixtures("every_way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = HttpLimits(
    max_header_bytes=2000,
    max_body_bytes=1000,
    header_timeout_s=8,
    body_timeout_s=16,
    idle_timeout_s=80,
    first_request_timeout_s=80,
    write_timeout_s=24,
)
TICK_S = 1  # how late the sweeper may notice: an eighth of the shortest timeout, at most a second


async def elapsed_until_closed(peer: Peer) -> float:
    begin = trio.current_time()
    await peer.rest()
    return trio.current_time() - begin


async def test_a_connection_that_asks_nothing_is_closed_after_the_idle_timeout(
    autojump_clock: MockClock,
) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()

        assert 80 <= await elapsed_until_closed(peer) <= 80 + TICK_S
        assert there.count("request_timeouts") == 0


async def test_blank_lines_are_no_request_and_move_no_deadline(autojump_clock: MockClock) -> None:
    async with running(echo, limits=HttpLimits(idle_timeout_s=8.0, first_request_timeout_s=8.0)) as there:
        for fresh in (True, False):
            peer = await there.connect()
            if not fresh:
                await peer.ask(GET)
            began = trio.current_time()
            while all([await _send_and_pass(peer, b"\r\n") for _ in range(8)]):  # some while others are looked at
                await trio.sleep(0.5)
                assert trio.current_time() - began < 11.0


async def _send_and_pass(peer: Peer, data: bytes) -> bool:
    is_open = peer.send_now(data)
    await trio.lowlevel.checkpoint()
    return is_open


async def test_the_idle_timeout_starts_again_after_each_request(autojump_clock: MockClock) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        for _ in range(3):
            await trio.sleep(70)
            assert (await peer.ask(GET)).status == 200

        assert 80 <= await elapsed_until_closed(peer) <= 80 + TICK_S


async def test_line_breaks_between_requests_do_not_keep_a_connection_open(autojump_clock: MockClock) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        sent = 0
        with suppress(trio.BrokenResourceError):
            while sent < 100:
                await peer.send(b"\r\n")
                sent += 1
                await trio.sleep(1)

        assert 80 <= sent <= 80 + 3 * TICK_S


async def test_a_head_that_drips_in_is_given_up_with_408(autojump_clock: MockClock) -> None:
    """The time counts from the first byte, however many follow."""
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await trio.sleep(50)
        for byte in b"GET /loris":
            await peer.send(bytes([byte]))
            await trio.sleep(0.5)
        begin = trio.current_time()

        answer = await peer.answer()

        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert 2 <= trio.current_time() - begin <= 3 + TICK_S  # five seconds had passed
        assert await peer.rest() == b""
        assert there.count("request_timeouts") == 1


async def test_a_body_that_drips_in_is_given_up_with_408(autojump_clock: MockClock) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(15):
            await peer.send(b"x")
            await trio.sleep(1)

        assert (await peer.answer()).status == 408
        assert 16 <= trio.current_time() <= 16 + 2 * TICK_S


async def test_a_request_that_comes_in_time_in_each_part_is_answered(autojump_clock: MockClock) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await trio.sleep(60)
        await peer.send(b"POST / HTTP/1.1\r\n")
        await trio.sleep(6)
        await peer.send(b"Content-Length: 2\r\n\r\n")
        await trio.sleep(14)

        assert (await peer.ask(b"hi")).body == b"POST / hi"


async def test_a_handler_may_take_longer_than_any_timeout(autojump_clock: MockClock) -> None:
    async def slow(_: HttpRequest) -> HttpResponse:
        await trio.sleep(1000)
        return HttpResponse(200)

    async with running(slow, limits=LIMITS) as there:
        peer = await there.connect()

        assert (await peer.ask(GET)).status == 200
        assert 80 <= await elapsed_until_closed(peer) <= 80 + TICK_S


async def test_who_does_not_read_the_answer_is_closed(autojump_clock: MockClock) -> None:
    async def large(_: HttpRequest) -> HttpResponse:
        return HttpResponse(200, bytes(10_000_000))

    async with running(large, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(GET)
        await trio.sleep(24 + TICK_S)
        await trio.testing.wait_all_tasks_blocked()

        assert there.count("write_timeouts") == 1
        assert there.count("connections") == 0
        assert len(await peer.rest()) < 10_000_000


async def test_who_reads_the_answer_slowly_but_in_time_gets_all_of_it(autojump_clock: MockClock) -> None:
    async def large(_: HttpRequest) -> HttpResponse:
        return HttpResponse(200, bytes(1_000_000))

    async with running(large, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(GET)
        await trio.sleep(20)

        assert len((await peer.answer()).body) == 1_000_000


# Bad input


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001), 413),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 4000, 431),
    ],
)
async def test_bad_requests_get_one_clear_answer_and_are_closed(
    data: bytes, status: int, mock_clock: MockClock
) -> None:
    async with running(echo, limits=LIMITS) as there:
        bad, good = await there.connect(), await there.connect()
        for byte_count in range(0, len(data), 700):
            await bad.send(data[byte_count : byte_count + 700])

        answer = await bad.answer()

        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.body.endswith(b"\n")
        assert await bad.rest() == b""
        assert (await good.ask(GET)).status == 200
        assert there.count("bad_requests") == 1


async def test_a_body_that_is_too_large_is_refused_while_the_client_still_sends(mock_clock: MockClock) -> None:
    """It is read and thrown away for a while, or the answer would be lost in a reset."""
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + bytes(4_000_000))

        assert (await peer.answer()).status == 413


async def test_requests_before_garbage_are_answered() -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(GET + GET + b"garbage\r\n\r\n")

        assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 400]


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"]
)
async def test_a_client_that_leaves_in_the_middle_is_forgotten(data: bytes) -> None:
    async with running(echo, limits=LIMITS) as there:
        peer = await there.connect()
        await peer.send(data)
        await peer.stream.send_eof()

        assert await peer.rest() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert there.count("connections") == 0
        assert there.count("bad_requests") == 0


async def test_garbage_of_many_clients_disturbs_nobody() -> None:
    random_bytes = random.Random(1)
    async with running(echo, limits=LIMITS) as there:
        well = await there.connect()
        for number in range(200):
            peer = await there.connect()
            data = bytearray(GET * 2 + random_bytes.randbytes(number))
            for _ in range(5):
                data[random_bytes.randrange(len(data))] = random_bytes.randrange(256)
            await peer.send(bytes(data))
            await peer.stream.send_eof()
            await peer.rest()
            if number % 20 == 0:
                assert (await well.ask(GET)).status == 200

        assert there.count("handler_failures") == 0


# Clients that leave while their handler runs


class Watched:
    """A handler that waits, and knows how it ended."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.ended = trio.Event()
        self.go_on = trio.Event()
        self.cancelled = False

    async def __call__(self, _: HttpRequest) -> HttpResponse:
        self.started.set()
        try:
            await self.go_on.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        return HttpResponse(200)


async def test_the_handler_of_a_client_that_leaves_is_cancelled_when_wanted() -> None:
    handler = Watched()
    async with running(handler, cancel_on_disconnect=True) as there:
        peer = await there.connect()
        await peer.send(GET)
        await handler.started.wait()

        await peer.stream.aclose()

        await handler.ended.wait()
        assert handler.cancelled
        await trio.testing.wait_all_tasks_blocked()
        assert there.count("cancelled_by_client") == 1
        assert there.count("connections") == 0


async def test_the_handler_of_a_client_that_left_before_is_cancelled_too() -> None:
    handler = Watched()
    async with running(handler, cancel_on_disconnect=True) as there:
        peer = await there.connect()
        await peer.send(GET)
        peer.stream.socket.close()

        await handler.ended.wait()

        assert handler.cancelled


async def test_the_handler_of_a_client_that_leaves_runs_on_by_default(every_way: Way) -> None:
    if every_way is not in_a_task:
        pytest.skip("with a quick handler it never does")
    handler = Watched()
    async with running(handler) as there:
        peer = await there.connect()
        await peer.send(GET)
        await handler.started.wait()
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert not handler.ended.is_set()
        handler.go_on.set()
        await handler.ended.wait()
        assert not handler.cancelled


async def test_watching_for_clients_that_leave_changes_nothing_for_those_that_stay() -> None:
    async with running(echo, cancel_on_disconnect=True) as there:
        peers = [await there.connect() for _ in range(20)]
        for _ in range(3):
            assert {(await peer.ask(GET)).status for peer in peers} == {200}
        for peer in peers[:10]:
            await peer.stream.aclose()
        again = [await there.connect() for _ in range(10)]  # on the same descriptors

        assert {(await peer.ask(GET)).status for peer in [*peers[10:], *again]} == {200}
        assert there.count("cancelled_by_client") == 0


async def test_without_keep_alive_every_answer_closes() -> None:
    async with running(echo, limits=HttpLimits(keep_alive=False)) as there:
        peer = await there.connect()
        answer = await peer.ask(GET)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await peer.rest() == b""
