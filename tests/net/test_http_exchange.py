"""Requests in two steps, and large bodies that go past the parser: whole and unmixed, however they are split."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from appliance.net.errors import ConnectionBroken, TimedOut
from appliance.net.http_client import HttpClient
from appliance.net.http_parser import LARGE_BODY_BYTES
from tests.net.upstreams import Conversation, client_tls, echo_bodies, upstream

LARGE = random.Random(3).randbytes(3_000_000)


def client_of(address: str, *, tls: bool = False, max_connections: int = 32) -> HttpClient:
    if tls:
        return HttpClient(f"https://{address}", ssl_context=client_tls(), max_connections=max_connections)
    return HttpClient(f"http://{address}", max_connections=max_connections)


def head_of(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields, b"", b""])


@pytest.mark.parametrize("tls", [False, True])
async def test_large_requests_and_answers_are_whole_and_the_connection_is_kept(tls: bool) -> None:
    async with upstream(echo_bodies, tls=tls) as there, client_of(there.address, tls=tls) as client:
        for size in (LARGE_BODY_BYTES - 1, LARGE_BODY_BYTES + 200, len(LARGE), 10, len(LARGE) - 1):
            response = await client.request("POST", body=LARGE[:size], timeout_s=60)
            assert response.body == LARGE[:size]
            assert response.headers["content-length"] == str(size)
        assert client.statistics()["opened"] == 1


@pytest.mark.parametrize("cut", [1, 20, 40, 45, 60, 100, 70_000, 140_000, len(LARGE) - 1])
async def test_an_answer_may_be_split_anywhere(cut: int) -> None:
    async def script(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            data = head_of(LARGE) + LARGE
            await conversation.send(data[:cut])
            await trio.testing.wait_all_tasks_blocked(0.001)
            await conversation.send(data[cut:])

    async with upstream(script) as there, client_of(there.address) as client:
        for _ in range(2):
            assert (await client.request("POST", timeout_s=60)).body == LARGE
        assert client.statistics()["opened"] == 1


async def test_who_watches_sees_it_grow_to_the_whole_body() -> None:
    seen: list[tuple[int, int, bytes]] = []

    def watch(status: int, size: int, so_far: memoryview) -> None:
        seen.append((status, size, bytes(so_far)))

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(head_of(LARGE) + LARGE[:1000])
        await trio.testing.wait_all_tasks_blocked(0.001)
        await conversation.send(LARGE[1000:])
        await conversation.request()
        await conversation.answer(b"small")

    async with upstream(script) as there, client_of(there.address) as client:
        assert (await client.begin("POST", timeout_s=60).response(watch)).body == LARGE
        assert {(status, size) for status, size, _ in seen} == {(200, len(LARGE))}
        assert [LARGE[: len(body)] == body for _, _, body in seen] == [True] * len(seen)
        assert [len(body) for _, _, body in seen] == sorted({len(body) for _, _, body in seen})
        assert seen[-1][2] == LARGE
        seen.clear()
        assert (await client.begin("POST", timeout_s=60).response(watch)).body == b"small"
        assert seen == []


async def test_bytes_behind_a_large_answer_are_never_taken_for_the_next_one() -> None:
    async def script(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            await conversation.send(head_of(LARGE) + LARGE + head_of(b"forged") + b"forged")

    async with upstream(script) as there, client_of(there.address) as client:
        for _ in range(3):
            assert (await client.request("POST", timeout_s=60)).body == LARGE
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert client.statistics()["opened"] == 3


@pytest.mark.parametrize("missing", [1, LARGE_BODY_BYTES, len(LARGE) - 100])
async def test_a_large_answer_that_breaks_off_is_no_answer_and_is_not_asked_for_again(missing: int) -> None:
    async def script(conversation: Conversation) -> None:
        if conversation.number == 0:
            await conversation.request()
            await conversation.answer(b"well")
        await conversation.request()
        await conversation.send((head_of(LARGE) + LARGE)[:-missing])

    async with upstream(script) as there, client_of(there.address) as client:
        await client.request("POST", timeout_s=60)
        with pytest.raises(ConnectionBroken, match="in the middle of its answer"):
            await client.request("POST", timeout_s=60)
        assert len(there.conversations) == 1
        assert client.statistics()["retried"] == 0
        assert client.statistics()["busy"] == 0


async def by_deadline(client: HttpClient) -> None:
    with pytest.raises(TimedOut):
        await client.request("POST", timeout_s=0.1)


async def by_cancellation(client: HttpClient) -> None:
    with trio.move_on_after(0.1) as scope:
        await client.request("POST", timeout_s=60)
    assert scope.cancelled_caught


@pytest.mark.parametrize("give_up", [by_deadline, by_cancellation])
async def test_giving_up_in_the_middle_of_a_large_answer_closes_its_connection(
    give_up: Callable[[HttpClient], Awaitable[None]], mock_clock: trio.testing.MockClock
) -> None:
    """The clock stands still until half is there: one that jumps would not wait for what is on its way over TCP."""

    async def half_an_answer(conversation: Conversation) -> None:
        if conversation.number:
            await echo_bodies(conversation)
            return
        await conversation.request()
        await conversation.send((head_of(LARGE) + LARGE)[: len(LARGE) // 2])
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(0.1)
        await conversation.wait_closed()

    async with upstream(half_an_answer) as there, client_of(there.address, max_connections=1) as client:
        await give_up(client)
        await there.conversations[0].ended.wait()
        assert (await client.request("POST", body=b"next", timeout_s=60)).body == b"next"
        assert client.statistics()["busy"] == 0


async def test_a_request_is_on_its_way_before_it_is_awaited() -> None:
    arrived = trio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"first")
        await conversation.request()
        arrived.set()
        await conversation.answer(b"second")

    async with upstream(script) as there, client_of(there.address) as client:
        await client.request("POST", timeout_s=60)
        pending = client.begin("POST", body=b"x", timeout_s=60)
        with trio.fail_after(60):
            await arrived.wait()
        assert (await pending.response()).body == b"second"


async def test_a_request_that_nobody_awaits_gives_everything_back() -> None:
    async with upstream(echo_bodies) as there, client_of(there.address, max_connections=1) as client:
        await client.request("POST", body=b"first", timeout_s=60)
        pending = client.begin("POST", body=b"second", timeout_s=60)
        assert client.statistics()["busy"] == 1
        pending.abandon()
        pending.abandon()
        assert (client.statistics()["busy"], client.statistics()["idle"]) == (0, 0)
        assert (await client.request("POST", body=b"third", timeout_s=60)).body == b"third"


async def test_a_request_that_finds_no_free_connection_waits_within_its_deadline() -> None:
    async with upstream(echo_bodies) as there, client_of(there.address, max_connections=1) as client:
        await client.request("POST", body=b"warm", timeout_s=60)
        first = client.begin("POST", body=b"first", timeout_s=60)
        with pytest.raises(TimedOut):
            await client.begin("POST", body=b"second", timeout_s=0.05).response()
        third = client.begin("POST", body=b"third", timeout_s=60)
        assert (await first.response()).body == b"first"
        assert (await third.response()).body == b"third"
        assert client.statistics()["opened"] == 1


async def test_a_request_begun_on_a_connection_that_was_closed_goes_out_again() -> None:
    async def script(conversation: Conversation) -> None:
        if conversation.number == 0:
            await conversation.request()
            await conversation.answer(b"first")
            await conversation.request()  # and hangs up without an answer
        else:
            await echo_bodies(conversation)

    async with upstream(script) as there, client_of(there.address) as client:
        await client.request("POST", timeout_s=60)
        assert (await client.begin("POST", body=b"again", timeout_s=60).response()).body == b"again"
        assert client.statistics()["retried"] == 1


async def test_a_large_request_is_sent_while_the_other_side_reads_slowly() -> None:
    async def script(conversation: Conversation) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked(0.001)  # the request has filled the kernel's buffers
            request = await conversation.request()
            if request is None:
                return
            await conversation.answer(request.partition(b"\r\n\r\n")[2][-10:])

    body = LARGE * 4
    async with upstream(script) as there, client_of(there.address) as client:
        for _ in range(2):
            assert (await client.request("POST", body=body, timeout_s=60)).body == body[-10:]
        assert client.statistics()["opened"] == 1


async def test_answers_without_a_body_or_to_head_do_not_confuse_those_behind_them() -> None:
    answers = [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        head_of(LARGE),  # to HEAD
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE),
        head_of(b"end") + b"end",
    ]
    methods = ["POST", "HEAD", "POST", "POST", "POST"]
    left = list(answers)

    async def script(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            await conversation.send(left.pop(0))

    async with upstream(script) as there, client_of(there.address) as client:
        bodies = [(await client.request(method, timeout_s=60)).body for method in methods]
    assert bodies == [b"", b"", b"", LARGE, b"end"]
