"""Answers that begin before they are whole: on real sockets, whatever the client takes of them and when."""

import socket
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import Headers, HttpRequest, HttpResponse
from tests.net.serving import Peer, running

KIND = Headers({"content-type": "application/json"})
LARGE = bytes(range(256)) * 16_384  # 4 MiB: more than the kernel takes at once


def told(request: HttpRequest) -> EarlyAnswer:
    assert request.early is not None
    return request.early


async def head_of(client: Peer) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await client.read_exactly(1)
    return head


def offer(request: HttpRequest, body: bytes, so_far: int, status: int = 200) -> None:
    told(request).offer(status, KIND, len(body), memoryview(body)[:so_far])


async def test_what_has_come_is_with_the_client_before_the_handler_ends() -> None:
    proceed = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        offer(request, b"hello", 0)
        offer(request, b"hello", 3)
        await proceed.wait()
        return HttpResponse(200, b"hello", KIND)

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert (await head_of(client)).endswith(b"content-length: 5\r\n\r\n")
        assert await client.read_exactly(3) == b"hel"
        proceed.set()
        assert await client.read_exactly(2) == b"lo"


async def test_the_connection_goes_on_after_it() -> None:
    async def handler(request: HttpRequest) -> HttpResponse:
        if request.body:
            offer(request, request.body, 1)
        return HttpResponse(200, request.body, KIND)

    async with running(handler) as there:
        client = await there.connect()
        for body in (b"one", b"", b"three", b"four"):
            answer = await client.ask(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), "POST")
            assert (answer.status, answer.body) == (200, body)
            assert answer.headers["content-type"] == "application/json"


async def test_a_client_that_reads_late_gets_every_byte_once() -> None:
    offered = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        for so_far in range(0, len(LARGE) + 1, 1 << 18):
            offer(request, LARGE, so_far)
        offered.set()
        return HttpResponse(200, LARGE, KIND)

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await offered.wait()
        await trio.testing.wait_all_tasks_blocked()
        await head_of(client)
        assert await client.read_exactly(len(LARGE)) == LARGE


async def test_flush_lets_the_client_take_what_is_there_but_not_for_ever() -> None:
    flushed = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        offer(request, LARGE, 1)
        with trio.fail_after(60):
            await told(request).flush(memoryview(LARGE))
        flushed.set()
        return HttpResponse(200, LARGE, KIND)

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await flushed.wait()  # nothing is read meanwhile
        await head_of(client)
        assert await client.read_exactly(len(LARGE)) == LARGE


@pytest.mark.parametrize(
    "end",
    [
        lambda: HttpResponse(200, b"hell", KIND),
        lambda: HttpResponse(500, b"hello", KIND),
        lambda: (_ for _ in ()).throw(RuntimeError("no end")),
    ],
)
async def test_an_answer_that_cannot_be_ended_as_it_began_ends_the_connection(end: Callable[[], HttpResponse]) -> None:
    """The client sees fewer bytes than the head said, so it takes it for no answer."""

    async def handler(request: HttpRequest) -> HttpResponse:
        offer(request, b"hello", 2)
        return end()

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert (await client.rest()).endswith(b"content-length: 5\r\n\r\nhe")
        assert there.server.statistics()["handler_failures"] != 0


async def test_a_client_that_goes_away_in_the_middle_disturbs_nobody() -> None:
    gone = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        if request.path == "/leave":
            offer(request, LARGE, 1)
            await gone.wait()
            for so_far in range(0, len(LARGE), 1 << 18):
                offer(request, LARGE, so_far)
                await trio.lowlevel.checkpoint()
        return HttpResponse(200, LARGE, KIND)

    async with running(handler) as there:
        leaving, client = await there.connect(), await there.connect()
        await leaving.send(b"POST /leave HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await head_of(leaving)
        await leaving.stream.aclose()
        gone.set()
        assert (await client.ask(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "POST")).body == LARGE


async def test_the_last_answer_of_a_connection_says_so() -> None:
    async def handler(request: HttpRequest) -> HttpResponse:
        offer(request, b"hello", 5)
        return HttpResponse(200, b"hello", KIND)

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        answer = await client.rest()
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nhello")


async def test_head_requests_have_none() -> None:
    async def handler(request: HttpRequest) -> HttpResponse:
        offer(request, b"hello", 5)
        assert not told(request).begun
        return HttpResponse(200, b"hello", KIND)

    async with running(handler) as there:
        client = await there.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"content-length: 5\r\nconnection: close\r\n\r\n")


@given(size=st.integers(0, 300_000), steps=st.lists(st.integers(0, 120_000), max_size=6), small=st.booleans())
def test_the_bytes_are_the_answers_in_whatever_pieces_they_go(size: int, steps: list[int], small: bool) -> None:
    """With a socket that takes little at a time; what is left at the end is what `rest` says."""
    body = bytes(number * 31 % 251 for number in range(size % 1000)) * (1 + size // 1000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        if small:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        early, got = EarlyAnswer(ours), bytearray()
        early.reset(usable=True, close=False)
        so_far = 0
        for step in [0, *steps]:
            so_far = min(len(body), so_far + step)
            early.offer(200, KIND, len(body), memoryview(body)[:so_far])
            if step % 2:
                got += received(theirs)
        got += received(theirs)
        got += b"".join(early.rest(HttpResponse(200, body, KIND)))
    assert bytes(got).partition(b"\r\n\r\n")[2] == body


def received(theirs: socket.socket) -> bytes:
    got = b""
    theirs.setblocking(False)
    try:
        while data := theirs.recv(1 << 20):
            got += data
    except BlockingIOError:
        pass
    return got
