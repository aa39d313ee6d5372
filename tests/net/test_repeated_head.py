"""What a connection's last head saves must never be seen, but in the time it takes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.net.body_budget import BodyBudget
from appliance.net.http import HttpRequest
from appliance.net.http_parser import ParseError, RequestParser, Stage
from appliance.net.repeated_head import RepeatedHead
from tests.net.splitting import cut, cuts


class NeverRepeated(RepeatedHead):
    """The oracle knows no last head."""

    def learn(self, *_: object) -> None:
        pass


def parser(*, repeats: bool = True) -> RequestParser:
    made = RequestParser(max_header_bytes=600, max_body_bytes=300, max_headers=12, peer="10.0.0.1")
    if not repeats:
        made._repeated = NeverRepeated()
    return made


def request(length: object = None, body: str = "", fields: str = "Host: a\r\n", line: str = "POST / HTTP/1.1") -> bytes:
    length = len(body) if length is None else length
    return f"{line}\r\n{fields}Content-Length: {length}\r\nAccept: */*\r\n\r\n{body}".encode()


def run(under_test: RequestParser, pieces: list[bytes]) -> list[object]:
    """Everything that can be seen of a parser, piece by piece."""
    seen: list[object] = []
    for piece in pieces:
        try:
            found = under_test.feed(piece)
            under_test.check()
        except ParseError as error:
            return [*seen, (error.status, error.text)]
        for each in found:
            under_test.release_body(each)
        seen.append([(r.method, r.target, dict(r.headers), r.body, r.peer, r.keep_alive, r.upgrade) for r in found])
        seen.append((under_test.stage, under_test.is_between(), under_test.rest, under_test.take_expectation()))
    return seen


# Heads that are alike, or nearly so, with lengths that are right, wrong or none.
BODY = st.integers(0, 320).map(lambda size: "x" * size)
LENGTHS = st.sampled_from(
    [None, None, None, "", "+3", "03", "3 ", " 3", "3, 3", "0x3", "3\r\nContent-Length: 3", 3, "9" * 21]
)
FIELDS = st.sampled_from(
    [
        *("Host: a\r\n", "Host: a\r\n", "host: a\r\n", "Host: b\r\n", "", "Connection: keep-alive\r\n"),
        *("Connection: close\r\n", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n", "Upgrade: h2c\r\n"),
        *("Connection: upgrade\r\nUpgrade: websocket\r\n", "X: " + "y" * 200 + "\r\n", "X:  content-length: 3\r\n"),
    ]
)
LINES = st.sampled_from(
    ["POST / HTTP/1.1", "POST / HTTP/1.1", "GET /x?y HTTP/1.1", "HEAD / HTTP/1.1", "POST / HTTP/1.0"]
)
MESSAGES = st.builds(request, LENGTHS, BODY, FIELDS, LINES) | st.sampled_from(
    [b"\r\n", b"\r\n\r\n", b"\n", b"G", b"POST / HTTP/1.1\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"x", request() * 3]
)
PLAIN = st.builds(request, st.none(), BODY)


@given(st.lists(PLAIN | MESSAGES, max_size=8), cuts() | st.just([]))
@example([request(body="a" * size) for size in (3, 3, 30, 300, 301, 3)], [])
@example([request(), b"\r\n", request(), request("00", ""), request()], [])
@example([request(fields="X: " + "y" * 520 + "\r\n", body="a" * size) for size in (1, 1, 100)], [])
def test_the_same_comes_out_as_without_it(messages: list[bytes], places: list[int]) -> None:
    pieces = [piece for message in messages for piece in (cut(message, places) if places else [message])]
    assert run(parser(), pieces) == run(parser(repeats=False), pieces)


def llhttp_sees(under_test: RequestParser, data: bytes) -> tuple[list[HttpRequest], bool]:
    """The requests, and whether it was asked for them."""
    calls: list[bytes] = []
    usual = under_test._parse
    under_test._parse = lambda data: (calls.append(bytes(data)), usual(data))[1]  # type: ignore[method-assign,func-returns-value]
    found = under_test.feed(data)
    under_test._parse = usual  # type: ignore[method-assign]
    return found, bool(calls)


def test_a_head_that_comes_again_is_not_parsed_whatever_its_length() -> None:
    under_test = parser()
    assert llhttp_sees(under_test, request(body="first"))[1]
    for body in ("again", "", "longer than before", "x" * 300):
        (found,), parsed = llhttp_sees(under_test, request(body=body))
        assert (found.body, found.headers["content-length"], parsed) == (body.encode(), str(len(body)), False)
        assert found.headers == {"host": "a", "content-length": str(len(body)), "accept": "*/*"}


@pytest.mark.parametrize(
    "between",
    [
        request(fields="Host: b\r\n", body="other"),
        request(body="one") + request(body="two"),
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_another_message_takes_its_place(between: bytes) -> None:
    under_test = parser()
    under_test.feed(request(body="first"))
    under_test.feed(between)
    assert llhttp_sees(under_test, request(body="first"))[1]


def test_a_long_head_is_not_kept() -> None:
    under_test = RequestParser(max_header_bytes=20_000, max_body_bytes=100)
    for size, kept in ((1900, True), (2100, False)):
        data = request(fields="X: " + "y" * size + "\r\n")
        under_test.feed(data)
        assert llhttp_sees(under_test, data)[1] is not kept


def test_half_of_it_is_the_parsers() -> None:
    under_test, data = parser(), request(body="first")
    under_test.feed(data)
    found, parsed = llhttp_sees(under_test, data[:-1])
    assert (found, parsed, under_test.stage) == ([], True, Stage.BODY)
    assert under_test.feed(data[-1:])[0].body == b"first"


def test_a_client_whose_heads_all_differ_is_not_looked_at_for_ever() -> None:
    head = RepeatedHead()
    under_test = parser()
    under_test._repeated = head
    for number in range(20):
        under_test.feed(request(fields=f"X-Request-ID: {number}\r\n"))
    assert head._in_vain == 8
    assert head.match(request(fields="X-Request-ID: 19\r\n")) is None


def test_its_body_is_counted_as_any_other() -> None:
    bodies = BodyBudget(400_000)
    under_test = RequestParser(max_header_bytes=600, max_body_bytes=300_000, bodies=bodies)
    taken = [under_test.feed(request(body="x" * size))[0] for size in (10, 265_536)]
    assert bodies.taken == 200_000
    with pytest.raises(ParseError, match="too many large bodies") as caught:
        under_test.feed(request(body="x" * 300_000))
    assert caught.value.status == 503
    for each in taken:
        under_test.release_body(each)
    assert bodies.taken == 0
