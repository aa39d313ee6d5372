"""A lane: one connection, one user, and what becomes of it when either end gives up."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import trio
import trio.testing

from appliance.domain.errors import UnavailableError
from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectFailed, ConnectionBroken, TimedOut
from appliance.net.http_lane import HttpLane, LaneAnswer, post_head
from appliance.net.opening import Stream, parse_url
from appliance.net.readiness import Readiness
from tests.net.upstreams import Conversation, Upstream, client_tls, echo_bodies, upstream
from tests.support.eventually import eventually

current: list[Readiness | None] = [None]


@pytest.fixture(autouse=True, params=["in a task", "by callbacks"])
async def way(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncGenerator[None, None]:
    """Every test holds for both."""
    readiness = Readiness()
    nursery.start_soon(readiness.run)
    current.append(readiness if request.param == "by callbacks" else None)
    yield
    current.pop()


def lane_to(
    url: str, *, max_response_bytes: int = 1_000_000, check: Callable[[Stream], Awaitable[None]] | None = None
) -> HttpLane:
    endpoint = parse_url(url, "http", "https")
    context = client_tls() if endpoint.secure else None
    return HttpLane(
        endpoint,
        ssl_context=context,
        max_response_bytes=max_response_bytes,
        connect_timeout_s=60.0,
        check=check,
        readiness=current[-1],
    )


async def ask(lane: HttpLane, body: bytes = b"{}", url: str = "http://h/") -> LaneAnswer:
    """The answer, whichever way it comes."""
    head = b"%b%d\r\n\r\n" % (post_head(parse_url(url, "http", "https")), len(body))
    if current[-1] is None:
        return await lane.exchange(head, body, trio.current_time())
    told, answers = trio.Event(), list[LaneAnswer | None]()

    def on_answer(answer: LaneAnswer | None) -> None:
        answers.append(answer)
        told.set()

    if not lane.begin(head, body, trio.current_time(), on_answer):
        return await lane.finish()
    try:
        await told.wait()
    except trio.Cancelled:
        lane.close()
        raise
    (answer,) = answers
    return await lane.finish() if answer is None else answer


def url_of(made: Upstream, *, tls: bool = False) -> str:
    return f"https://localhost:{made.address.rpartition(':')[2]}" if tls else f"http://{made.address}"


@pytest.mark.parametrize("tls", [False, True])
async def test_one_connection_serves_request_after_request(tls: bool) -> None:
    async with upstream(echo_bodies, tls=tls) as made:
        lane = lane_to(url_of(made, tls=tls))
        for size in (0, 10, 20_000, 900_000):
            answer = await ask(lane, b"x" * size)
            assert (answer.status, answer.body) == (200, b"x" * size)
        assert len(made.conversations) == 1
        assert repr(lane).endswith("open>")
        lane.close()
        await made.conversations[0].ended.wait()


@pytest.mark.parametrize("tls", [False, True])
async def test_an_abort_ends_the_request_and_closes_the_connection(tls: bool) -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.wait_closed()

    async with upstream(silent, tls=tls) as made, trio.open_nursery() as nursery:
        lane = lane_to(url_of(made, tls=tls))

        async def expect_timeout() -> None:
            with pytest.raises(TimedOut, match="in time"):
                await ask(lane)

        nursery.start_soon(expect_timeout)
        await eventually(
            lambda: (
                bool(made.conversations and made.conversations[0]._read is not None) and lane._connection is not None
            )
        )
        await trio.testing.wait_all_tasks_blocked(0.01)
        lane.abort()
        await made.conversations[0].ended.wait()


async def test_an_abort_while_it_connects_ends_that() -> None:
    reached = trio.Event()

    async def check(_: Stream) -> None:
        reached.set()
        await trio.sleep_forever()

    async with upstream(echo_bodies) as made, trio.open_nursery() as nursery:
        lane = lane_to(url_of(made), check=check)

        async def expect_timeout() -> None:
            with pytest.raises(TimedOut):
                await ask(lane)

        nursery.start_soon(expect_timeout)
        await reached.wait()
        lane.abort()


async def test_a_check_that_fails_keeps_every_byte_back() -> None:
    async def check(_: Stream) -> None:
        raise UnavailableError("not this one")

    requests = []

    async def script(conversation: Conversation) -> None:
        requests.append(await conversation.request())

    async with upstream(script) as made:
        lane = lane_to(url_of(made), check=check)
        with pytest.raises(UnavailableError, match="not this one"):
            await ask(lane)
        await eventually(lambda: requests == [None])


async def test_a_connection_closed_while_idle_is_replaced_and_one_closed_in_an_answer_is_not() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if conversation.number < 2:
            await conversation.answer(b"%d" % conversation.number)
        else:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with upstream(script) as made:
        lane = lane_to(url_of(made))
        assert (await ask(lane)).body == b"0"
        await made.conversations[0].ended.wait()
        assert (await ask(lane)).body == b"1"
        await made.conversations[1].ended.wait()
        with pytest.raises(ConnectionBroken, match="in the middle of its answer"):
            await ask(lane)
        assert len(made.conversations) == 3


async def test_what_a_server_says_to_an_idle_connection_is_never_taken_for_an_answer(
    mock_clock: trio.testing.MockClock,
) -> None:
    async def farewell(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"first")
        if conversation.number == 0:
            await conversation.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await conversation.wait_closed()

    async with upstream(farewell) as made:
        lane = lane_to(url_of(made))
        await ask(lane)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(60)
        assert (await ask(lane)).status == 200
        assert len(made.conversations) == 2
        lane.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_bytes_behind_an_answer_end_the_connection(tls: bool) -> None:
    async def chatty(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n")

    async with upstream(chatty, tls=tls) as made:
        lane = lane_to(url_of(made, tls=tls))
        assert (await ask(lane)).body == b"ok"
        assert (await ask(lane)).body == b"ok"
        assert len(made.conversations) == 2
        lane.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_answers_that_are_too_large_or_no_http(tls: bool) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if conversation.number:
            await conversation.send(b"what?\r\n\r\n")
        else:
            await conversation.answer(b"x" * 2000)

    async with upstream(script, tls=tls) as made:
        lane = lane_to(url_of(made, tls=tls), max_response_bytes=1000)
        with pytest.raises(AnswerTooLarge, match="body larger than 1000 bytes"):
            await ask(lane)
        with pytest.raises(BadResponse):
            await ask(lane)


async def test_nobody_there() -> None:
    with pytest.raises(ConnectFailed, match="Connection refused"):
        await ask(lane_to("http://127.0.0.77:9"))


async def test_a_refusal_before_the_body_was_read_is_the_answer() -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with upstream(refuse) as made:
        answer = None
        with contextlib.suppress(ConnectionBroken):  # the reset may overtake the answer
            answer = await ask(lane_to(url_of(made)), b"x" * 5_000_000)
        assert answer is None or answer.status == 413


async def test_a_cancelled_request_takes_its_connection_along() -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.wait_closed()

    async with upstream(silent) as made:
        lane = lane_to(url_of(made))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lane)
            await eventually(lambda: bool(made.conversations))
            nursery.cancel_scope.cancel()
        await made.conversations[0].ended.wait()
        assert repr(lane).endswith("not connected>")


async def begin_quickly(lane: HttpLane, told: list[LaneAnswer | None]) -> bool:
    """Begin a request on a lane that has served one, and wait for what is told of it."""
    head = post_head(parse_url("http://h/", "http")) + b"2\r\n\r\n"
    begun = lane.begin(head, b"{}", trio.current_time(), told.append)
    if begun:
        await eventually(lambda: bool(told))
    return begun


async def test_an_open_lane_needs_no_task(way: None) -> None:
    async with upstream(echo_bodies) as made:
        lane, told = lane_to(url_of(made)), list[LaneAnswer | None]()
        await ask(lane)
        begun = await begin_quickly(lane, told)
        assert begun == (current[-1] is not None)
        if begun:
            assert [answer and answer.body for answer in told] == [b"{}"]
        else:
            assert (await lane.finish()).body == b"{}"
        lane.close()


@pytest.mark.parametrize("size", [3, 200_000])
async def test_an_answer_in_pieces_is_finished_in_a_task(size: int) -> None:
    async def pieces(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await conversation.send(bytes(size))

    async with upstream(pieces) as made:
        lane = lane_to(url_of(made))
        for _ in range(3):
            assert len((await ask(lane)).body) == size
        assert len(made.conversations) == 1
        lane.close()


async def test_a_farewell_right_behind_an_answer_is_seen_before_the_next_request() -> None:
    answered, said = [trio.Event() for _ in range(3)], [trio.Event() for _ in range(3)]

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)
        await answered[conversation.number].wait()
        await conversation.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        said[conversation.number].set()
        await conversation.wait_closed()

    async with upstream(script) as made:
        lane = lane_to(url_of(made))
        for number in range(3 if current[-1] is not None else 1):  # who only looks after a while sees it later
            assert (await ask(lane)).body == b"%d" % number
            answered[number].set()
            await said[number].wait()
            if current[-1] is not None:
                await eventually(lambda: getattr(lane._connection, "stirred", False))
        lane.close()


async def test_a_request_that_was_aborted_by_callback_is_told_and_then_timed_out() -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"first")
        await conversation.wait_closed()

    async with upstream(silent) as made:
        lane, told = lane_to(url_of(made)), list[LaneAnswer | None]()
        await ask(lane)
        head = post_head(parse_url("http://h/", "http")) + b"2\r\n\r\n"
        begun = lane.begin(head, b"{}", trio.current_time(), told.append)
        lane.abort()
        assert told == [None] * begun
        with pytest.raises(TimedOut):
            await lane.finish()
        await made.conversations[0].ended.wait()
        assert repr(lane).endswith("not connected>")


async def test_an_abort_before_it_began_to_connect_is_not_forgotten() -> None:
    async with upstream(echo_bodies) as made:
        lane = lane_to(url_of(made))
        head = post_head(parse_url("http://h/", "http")) + b"2\r\n\r\n"
        assert not lane.begin(head, b"{}", trio.current_time())
        lane.abort()
        with pytest.raises(TimedOut):
            await lane.finish()
        assert made.conversations == []


async def test_a_lane_that_is_closed_tells_nobody() -> None:
    async with upstream(echo_bodies) as made:
        lane, told = lane_to(url_of(made)), list[LaneAnswer | None]()
        await ask(lane)
        head = post_head(parse_url("http://h/", "http")) + b"2\r\n\r\n"
        lane.begin(head, b"{}", trio.current_time(), told.append)
        lane.close()
        await made.conversations[0].ended.wait()
        assert told == []
        with pytest.raises(ConnectionBroken, match="closed here"):
            await lane.finish()
        assert (await ask(lane)).body == b"{}"
        lane.close()


async def test_heads_have_what_the_node_needs() -> None:
    head = post_head(parse_url("http://user:pw@host:8545/path?x=1", "http"))
    assert head == (
        b"POST /path?x=1 HTTP/1.1\r\nhost: host:8545\r\nauthorization: Basic dXNlcjpwdw==\r\n"
        b"accept: application/json\r\ncontent-type: application/json\r\ncontent-length: "
    )


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
async def test_an_answer_that_ends_with_the_connection_is_not_whole_behind_a_reset(head: bytes, tls: bool) -> None:
    seen = trio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(head + b"x" * 1000)
        await seen.wait()
        await conversation.reset()

    async with upstream(script, tls=tls) as made, trio.open_nursery() as nursery:
        lane = lane_to(url_of(made, tls=tls))

        async def expect_broken() -> None:
            with pytest.raises(ConnectionBroken):
                await ask(lane)

        nursery.start_soon(expect_broken)
        await trio.testing.wait_all_tasks_blocked(0.02)
        seen.set()
