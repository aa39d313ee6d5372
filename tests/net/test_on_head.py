"""Answers that need no body are given before it is read."""

import pytest
import trio

from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.http_parser import HeadAnswered, ParseError, RequestParser
from appliance.net.http_server import HttpLimits
from tests.net.serving import echo, running
from tests.net.splitting import cut

pytestmark = pytest.mark.usefixtures("every_way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def only_known(method: str, target: str, headers: Headers) -> HttpResponse | None:
    if headers.get("authorization") == "known":
        return None
    return HttpResponse(401, f"{method} {target} by whom?".encode(), {"X-Why": "unknown"})


def post(size: int, *fields: bytes, target: bytes = b"/") -> bytes:
    lines = [b"POST %s HTTP/1.1" % target, b"Host: x", b"Content-Length: %d" % size, *fields, b"", b""]
    return b"\r\n".join(lines)


def parser() -> RequestParser:
    return RequestParser(max_header_bytes=1000, max_body_bytes=1000, on_head=only_known)


def fed_until_answered(under_test: RequestParser, pieces: list[bytes]) -> HeadAnswered:
    for piece in pieces:
        try:
            assert under_test.feed(piece) == []
        except HeadAnswered as answered:
            return answered
    raise AssertionError("not answered")


@pytest.mark.parametrize("sizes", [[], list(range(60)), [30, 50], [55]])
def test_the_parser_stops_at_a_head_that_is_answered(sizes: list[int]) -> None:
    under_test = parser()

    answered = fed_until_answered(under_test, cut(post(5) + b"hello" + GET, sizes))

    assert (answered.method, answered.response.body) == ("POST", b"POST / by whom?")
    with pytest.raises(HeadAnswered):
        under_test.feed(b"more")


def test_requests_before_an_answered_head_come_out_first() -> None:
    under_test = parser()

    requests = under_test.feed(post(2, b"Authorization: known") + b"hi" + post(0))

    assert [request.body for request in requests] == [b"hi"]
    with pytest.raises(HeadAnswered):
        under_test.check()


@pytest.mark.parametrize(
    ("head", "status"), [(post(1001), 413), (post(1, b"Expect: x"), 417), (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 405)]
)
def test_heads_that_are_at_fault_are_not_judged(head: bytes, status: int) -> None:
    with pytest.raises(ParseError) as caught:
        parser().feed(head)

    assert caught.value.status == status


def test_an_offer_of_another_protocol_is_judged_once() -> None:
    judged = []

    def on_head(_: str, target: str, __: Headers) -> None:
        judged.append(target)

    under_test = RequestParser(max_header_bytes=1000, max_body_bytes=1000, on_head=on_head)
    h2c = post(2, b"Connection: Upgrade", b"Upgrade: h2c", target=b"/h2c")

    assert [request.body for request in under_test.feed(h2c + b"hi")] == [b"hi"]
    assert judged == ["/h2c"]


async def test_the_answer_comes_before_the_body_and_is_the_last() -> None:
    async with running(echo, on_head=only_known) as there:
        peer = await there.connect()

        answer = await peer.ask(post(20_000_000, b"Expect: 100-continue", target=b"/x"))

        assert (answer.status, answer.body) == (401, b"POST /x by whom?")
        assert (answer.headers["x-why"], answer.headers["connection"]) == ("unknown", "close")
        assert await peer.rest() == b""
        assert (there.count("answered_at_head"), there.count("requests"), there.count("bad_requests")) == (1, 0, 0)


async def test_what_it_lets_pass_is_handled_as_ever() -> None:
    async with running(echo, on_head=only_known) as there:
        peer = await there.connect()

        for _ in range(3):
            assert (await peer.ask(post(2, b"Authorization: known") + b"hi")).body == b"POST / hi"
        assert (await peer.ask(GET)).status == 401


async def test_pipelined_requests_before_it_are_answered_before_it() -> None:
    async with running(echo, on_head=only_known) as there:
        peer = await there.connect()
        await peer.send((post(2, b"Authorization: known") + b"hi") * 2 + post(9))

        assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 401]


async def test_the_answer_to_head_has_no_body() -> None:
    async with running(echo, on_head=only_known) as there:
        peer = await there.connect()

        answer = await peer.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", method="HEAD")

        assert (answer.status, answer.headers["content-length"]) == (401, "15")
        assert await peer.rest() == b""


async def test_when_it_fails_the_client_gets_500_and_others_are_served() -> None:
    def fails(_: str, target: str, __: Headers) -> HttpResponse | None:
        if target == "/bad":
            raise RuntimeError("broken")
        return None

    async with running(echo, on_head=fails) as there:
        bad, good = await there.connect(), await there.connect()

        assert (await bad.ask(post(9, target=b"/bad"))).status == 500
        assert (await good.ask(GET)).status == 200
        assert there.count("handler_failures") == 1


async def test_what_is_refused_while_it_sends_still_reads_its_answer(mock_clock: trio.testing.MockClock) -> None:
    async with running(echo, on_head=only_known, limits=HttpLimits(max_body_bytes=20_000_000)) as there:
        peer = await there.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, post(8_000_000) + bytes(8_000_000))
            assert (await peer.answer()).status == 401


async def test_a_request_of_the_handler_is_the_one_that_was_judged() -> None:
    seen: list[object] = []

    def on_head(method: str, target: str, headers: Headers) -> None:
        seen.append((method, target, headers))

    async def handle(request: HttpRequest) -> HttpResponse:
        seen.append((request.method, request.target, request.headers))
        return HttpResponse(200)

    async with running(handle, on_head=on_head) as there:
        await (await there.connect()).ask(post(2, b"A: b", target=b"/a?b=c") + b"hi")

    assert len(seen) == 2
    assert seen[0] == seen[1]
