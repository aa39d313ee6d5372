"""All bodies together hold a bounded number of bytes, and small ones always pass."""

import sys
from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.net.body_budget import UNCOUNTED_BYTES, BodyBudget
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_parser import ParseError, RequestParser
from appliance.net.http_server import HttpLimits
from tests.net.serving import Peer, Running, echo, running
from tests.net.splitting import cut

pytestmark = pytest.mark.usefixtures("every_way")

MIB = 1024 * 1024
LIMITS = HttpLimits(max_body_bytes=MIB, max_body_bytes_in_flight=2 * MIB)


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size


def chunked(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_a_budget_that_cannot_hold_one_body_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="would never fit"):
        HttpLimits(max_body_bytes=2, max_body_bytes_in_flight=1)


@given(st.lists(st.lists(st.integers(1, 100_000), max_size=5), max_size=8))
def test_what_was_taken_is_within_the_limit_and_all_given_back(bodies: list[list[int]]) -> None:
    budget = BodyBudget(300_000)
    sizes = []
    for pieces in bodies:
        size = 0
        for piece in pieces:
            if not budget.grow(size, size + piece):
                break
            size += piece
            assert budget.taken <= 300_000
        sizes.append(size)

    assert budget.taken == sum(max(0, size - UNCOUNTED_BYTES) for size in sizes)
    for size in sizes:
        budget.give_back(size)
    assert budget.taken == 0
    assert budget.has_room(300_000 + UNCOUNTED_BYTES)
    assert not budget.has_room(300_000 + UNCOUNTED_BYTES + 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), max_size=4), st.lists(st.integers(1, 99_999)))
def test_a_parser_that_closes_has_given_everything_back(bodies: list[tuple[bool, int]], sizes: list[int]) -> None:
    """Whatever came, and whatever of it was taken out and released."""
    budget = BodyBudget(250_000)
    parser = RequestParser(max_header_bytes=1000, max_body_bytes=200_000, bodies=budget)
    data = b"".join(chunked(bytes(size)) if in_chunks else post(size) + bytes(size) for in_chunks, size in bodies)
    requests: list[HttpRequest] = []
    with suppress(ParseError):  # 503 where they do not fit
        for piece in cut(data, sizes):
            requests += parser.feed(piece)
            assert budget.taken <= 250_000
    for request in requests:
        parser.release_body(request)
    parser.close()

    assert budget.taken == 0


class Holding:
    """A handler that keeps its requests until it may go on."""

    def __init__(self) -> None:
        self.go_on = trio.Event()

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.body:
            await self.go_on.wait()
        return HttpResponse(200, b"%d" % len(request.body))


async def send_body(there: Running, data: bytes) -> Peer:
    peer = await there.connect()
    await peer.send(data)
    await wait_all_tasks_blocked()
    return peer


@pytest.mark.parametrize("late", [post(MIB), chunked(bytes(MIB))], ids=["announced", "chunked"])
async def test_a_large_body_that_does_not_fit_gets_503_and_fits_later(late: bytes, mock_clock: MockClock) -> None:
    handler = Holding()
    async with running(handler, limits=LIMITS) as there:
        held = [await send_body(there, post(MIB) + bytes(MIB)) for _ in range(2)]
        assert there.count("body_bytes") == 2 * (MIB - UNCOUNTED_BYTES)

        answer = await (await send_body(there, late)).answer()

        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
        assert (there.count("no_room_for_body"), there.count("bad_requests")) == (1, 0)
        assert there.count("body_bytes") == 2 * (MIB - UNCOUNTED_BYTES)
        handler.go_on.set()
        assert [(await peer.answer()).status for peer in held] == [200, 200]
        assert there.count("body_bytes") == 0
        assert (await (await there.connect()).ask(chunked(bytes(MIB)))).status == 200


async def test_small_bodies_pass_while_large_ones_fill_the_budget() -> None:
    handler = Holding()
    async with running(handler, limits=HttpLimits(max_body_bytes=MIB, max_body_bytes_in_flight=MIB)) as there:
        large = await send_body(there, post(MIB) + bytes(MIB))
        small = [await send_body(there, post(UNCOUNTED_BYTES) + bytes(UNCOUNTED_BYTES)) for _ in range(20)]
        handler.go_on.set()

        assert {(await peer.answer()).body for peer in [large, *small]} == {b"%d" % MIB, b"%d" % UNCOUNTED_BYTES}


async def test_an_announced_body_takes_no_room_before_it_comes() -> None:
    async with running(echo, limits=LIMITS) as there:
        for _ in range(10):
            await send_body(there, post(MIB))

        assert there.count("body_bytes") == 0
        assert (await (await there.connect()).ask(post(MIB) + bytes(MIB))).status == 200


async def test_a_client_that_leaves_within_its_body_gives_its_room_back(autojump_clock: MockClock) -> None:
    async with running(echo, limits=LIMITS) as there:
        leaving = await send_body(there, post(MIB) + bytes(MIB // 2))
        dripping = await send_body(there, post(MIB) + bytes(MIB // 2))
        assert there.count("body_bytes") == MIB - 2 * UNCOUNTED_BYTES

        leaving.stream.socket.close()
        assert (await dripping.answer()).status == 408
        dripping.stream.socket.close()
        await wait_all_tasks_blocked()

        assert there.count("body_bytes") == 0


async def test_pipelined_requests_that_are_not_reached_give_their_room_back() -> None:
    async with running(echo, limits=LIMITS) as there:
        last = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
        peer = await send_body(there, last + post(100_000) + bytes(100_000))

        assert (await peer.answer()).status == 200
        await peer.rest()
        await wait_all_tasks_blocked()
        assert there.count("body_bytes") == 0


async def test_an_idle_connection_does_not_keep_its_last_body() -> None:
    bodies: list[bytes] = []

    async def keep(request: HttpRequest) -> HttpResponse:
        bodies.append(request.body)
        return HttpResponse(200)

    async with running(keep, limits=LIMITS) as there:
        peer = await there.connect()
        assert (await peer.ask(post(MIB) + bytes(MIB))).status == 200
        await wait_all_tasks_blocked()
        references = sys.getrefcount(bodies[0])

        assert len(bodies[0]) == MIB
        assert references == 2  # the list, and the call's own argument
