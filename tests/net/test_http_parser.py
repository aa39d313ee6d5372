import pytest

from appliance.net.http import HttpRequest
from appliance.net.http_parser import ParseError, RequestParser, Stage

LIMIT = 1000


def parser(*, max_body_bytes: int = 100, max_headers: int = 20) -> RequestParser:
    return RequestParser(
        max_header_bytes=LIMIT, max_body_bytes=max_body_bytes, max_headers=max_headers, peer="10.0.0.1"
    )


def parse_one(data: bytes) -> HttpRequest:
    (request,) = parser().feed(data)
    return request


def refusal(data: bytes, **limits: int) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parser(**limits).feed(data)
    return caught.value


def refusal_in_pieces(under_test: RequestParser, pieces: list[bytes]) -> ParseError:
    for piece in pieces:
        try:
            under_test.feed(piece)
        except ParseError as error:
            return error
    raise AssertionError("not refused")


def test_a_request_has_everything_that_came() -> None:
    request = parse_one(b"POST /rpc?a=b HTTP/1.1\r\nHost: el\r\nX-Odd:  v \t\r\ncontent-length: 2\r\n\r\nhi")

    assert request.method == "POST"
    assert request.target == "/rpc?a=b"
    assert request.headers == {"host": "el", "x-odd": "v", "content-length": "2"}
    assert request.body == b"hi"
    assert request.peer == "10.0.0.1"
    assert request.keep_alive
    assert not request.upgrade


def test_pipelined_requests_come_out_together_and_in_order() -> None:
    requests = parser().feed(
        b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\n\r\n"
    )

    assert [request.target for request in requests] == ["/1", "/2", "/3"]
    assert [request.body for request in requests] == [b"", b"x", b""]


def test_a_chunked_body_is_put_together_and_its_trailers_dropped() -> None:
    request = parse_one(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;extension=1\r\nabc\r\n1\r\nd\r\n1\r\ne\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )

    assert request.body == b"abcde"
    assert "x-trailer" not in request.headers


def test_a_body_in_many_small_pieces_is_put_together() -> None:
    under_test = parser(max_body_bytes=5000)
    under_test.feed(b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n")
    requests: list[HttpRequest] = []
    body = bytes(range(250)) * 20
    begin = 0
    for size in [1] * 100 + [1500, 1, 1, 2000, 1] + [1] * 1397:
        requests += under_test.feed(body[begin : begin + size])
        begin += size

    assert [request.body for request in requests] == [body]


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_whether_the_connection_goes_on(head: bytes, keep_alive: bool) -> None:
    assert parse_one(head).keep_alive is keep_alive


def test_a_request_without_host_is_accepted_as_health_checks_send_it() -> None:
    assert parse_one(b"GET /healthz HTTP/1.1\r\n\r\n").path == "/healthz"


def test_the_stage_says_how_far_a_request_has_come() -> None:
    under_test = parser()
    stages = [under_test.stage]
    for piece in (b"\r\n", b"PO", b"ST / HTTP/1.1\r\nContent-Length: 2\r\n", b"\r\n", b"a", b"b"):
        under_test.feed(piece)
        stages.append(under_test.stage)

    start, head, body = Stage.START, Stage.HEAD, Stage.BODY
    assert stages == [start, start, head, head, body, body, start]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS where none is spoken
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nExpect: a-miracle\r\n\r\n", 417),
    ],
)
def test_bad_requests_get_the_status_that_says_what_is_wrong(data: bytes, status: int) -> None:
    error = refusal(data)

    assert error.status == status
    assert error.text


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"

    assert parser().feed(head % 100) == []
    assert refusal(head % 101).status == 413
    assert "100 bytes" in refusal(head % 101).text


def test_a_chunked_body_is_refused_when_it_grows_too_large() -> None:
    under_test = parser()
    under_test.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 100 + b"\r\n")

    with pytest.raises(ParseError) as caught:
        under_test.feed(b"1\r\nx\r\n")
    assert caught.value.status == 413


def test_a_head_over_the_limit_is_refused_whole_or_in_pieces() -> None:
    fits = b"GET / HTTP/1.1\r\nA: " + b"x" * (LIMIT - 100) + b"\r\n\r\n"
    too_large = b"GET / HTTP/1.1\r\nA: " + b"x" * LIMIT + b"\r\n\r\n"

    assert len(parser().feed(fits)) == 1
    assert refusal(too_large).status == 431
    assert refusal_in_pieces(parser(), [bytes([byte]) for byte in too_large]).status == 431


@pytest.mark.parametrize(
    "prefix",
    [
        b"",  # nothing but line breaks
        b"GET /",
        b"GET / HTTP/1.1\r\nA: ",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;",  # a chunk extension
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: ",
    ],
)
def test_what_never_ends_is_refused_within_the_limit(prefix: bytes) -> None:
    under_test = parser()
    under_test.feed(prefix)
    piece = b"\r\n" * 5 if not prefix else b"x" * 10

    assert refusal_in_pieces(under_test, [piece] * (LIMIT // 10 + 2)).status == 431


def test_too_many_headers_are_refused() -> None:
    head = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20

    assert parse_one(head + b"\r\n").headers["a"].count("b") == 20
    assert refusal(head + b"a: b\r\n\r\n").status == 431


def test_a_fault_behind_a_whole_request_is_told_after_it() -> None:
    under_test = parser()

    (request,) = under_test.feed(b"GET /good HTTP/1.1\r\n\r\ngarbage")

    assert request.target == "/good"
    with pytest.raises(ParseError):
        under_test.check()
    with pytest.raises(ParseError):
        under_test.feed(b"GET / HTTP/1.1\r\n\r\n")


def test_who_expects_100_continue_is_told_once() -> None:
    under_test = parser()
    under_test.feed(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n")

    assert under_test.take_expectation()
    assert not under_test.take_expectation()
    assert len(under_test.feed(b"x")) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_nobody_else_is_told_to_continue(data: bytes) -> None:
    under_test = parser()
    under_test.feed(data)

    assert not under_test.take_expectation()


WEBSOCKET = b"GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


def test_a_websocket_request_ends_the_parsing_and_keeps_what_follows() -> None:
    under_test = parser()

    requests = under_test.feed(b"GET /before HTTP/1.1\r\n\r\n" + WEBSOCKET + b"\x81\x02")
    more = under_test.feed(b"hi")

    assert [request.upgrade for request in requests] == [False, True]
    assert more == []
    assert under_test.rest == b"\x81\x02hi"


@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_other_upgrades_are_ignored_and_their_body_read(framing: bytes) -> None:
    """Java's HTTP client offers h2c with its first request, body included."""
    body = b"abc" if framing.startswith(b"C") else b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    head = b"POST /1 HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + framing

    requests = parser().feed(head + b"\r\n\r\n" + body + b"GET /2 HTTP/1.1\r\n\r\n")

    assert [(request.target, request.body) for request in requests] == [("/1", b"abc"), ("/2", b"")]
    assert not requests[0].upgrade
    assert requests[0].headers["upgrade"] == "h2c"
    assert requests[1].headers == {}


def test_an_ignored_upgrade_without_a_body_is_a_request_like_any_other() -> None:
    head = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    requests = parser().feed(head + head + WEBSOCKET)

    assert [request.upgrade for request in requests] == [False, False, True]


def test_a_websocket_request_with_a_body_is_no_websocket_request() -> None:
    data = WEBSOCKET.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi")

    (request,) = parser().feed(data)

    assert not request.upgrade
    assert request.body == b"hi"


def test_the_body_limit_holds_behind_an_ignored_upgrade() -> None:
    data = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert refusal(data + b"65\r\n" + b"x" * 101 + b"\r\n").status == 413
