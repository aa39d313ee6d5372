import pytest

from appliance.net.http import HttpResponse
from appliance.net.http_parser import ParseError, ResponseParser


def parser(method: str = "POST") -> ResponseParser:
    return ResponseParser(method=method, max_header_bytes=1000, max_body_bytes=100)


def test_a_response_has_everything_that_came() -> None:
    under_test = parser()

    (response,) = under_test.feed(
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno"
    )

    expected = {"www-authenticate": "Bearer", "content-length": "2"}
    assert response == HttpResponse(401, b"no", expected)
    assert under_test.keep_alive


def test_interim_responses_are_skipped() -> None:
    under_test = parser()

    assert under_test.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n") == []
    (response,) = under_test.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    assert response.status == 200
    assert "link" not in response.headers


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", True),
    ],
)
def test_whether_the_connection_can_be_used_again(head: bytes, keep_alive: bool) -> None:
    under_test = parser()

    (response,) = under_test.feed(head + b"ok")

    assert response.body == b"ok"
    assert under_test.keep_alive is keep_alive


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_without_length_ends_with_the_connection(version: bytes) -> None:
    under_test = parser()

    assert under_test.feed(b"HTTP/" + version + b" 200 OK\r\n\r\nto the") == []
    assert under_test.feed(b" end") == []
    (response,) = under_test.feed_eof()

    assert response.body == b"to the end"
    assert not under_test.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_connection_that_ends_early_gives_no_response(data: bytes) -> None:
    under_test = parser()
    if data:
        assert under_test.feed(data) == []

    assert under_test.feed_eof() == []


def test_a_chunked_response_is_put_together() -> None:
    under_test = parser()

    (response,) = under_test.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    assert response.body == b"abc"
    assert under_test.keep_alive


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n"),
    ],
)
def test_responses_that_never_have_a_body_end_with_their_head(method: str, head: bytes) -> None:
    under_test = parser(method)

    (response,) = under_test.feed(head)

    assert response.body == b""
    assert not under_test.keep_alive


@pytest.mark.parametrize("behind", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"garbage", b"\0"])
def test_bytes_behind_the_response_make_the_connection_unfit(behind: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    together, apart = parser(), parser()

    assert together.feed(head + behind) == [HttpResponse(200, b"ok", {"content-length": "2"})]
    assert len(apart.feed(head)) == 1
    assert apart.feed(behind) == []

    assert not together.keep_alive
    assert not apart.keep_alive
    assert together.feed_eof() == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"garbage", "HTTP"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "HTTP/2.0"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "upgrade"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "upgrade"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "coding"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", "100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101, "100 bytes"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 1001 + b"\r\n\r\n", "1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 129 + b"\r\n", "128 header fields"),
    ],
)
def test_bad_responses_are_errors_that_say_why(data: bytes, text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parser().feed(data)

    assert text in caught.value.text


class CountingParser(ResponseParser):
    """Counts the heads and chunks that llhttp has told it of."""

    parts = 0

    def on_message_begin(self) -> None:
        self.parts += 1
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        self.parts += 1
        super().on_chunk_header()


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "more than 8 interim responses"),
        (b"1\r\nx\r\n", "a body in chunks that are too small"),
    ],
)
def test_a_flood_of_little_parts_ends_at_once(flood: bytes, reason: str) -> None:
    """One read full of them held the loop for 27 ms, and the next one again: ten thousand and more were looked at."""
    under_test = CountingParser(method="POST", max_header_bytes=1000, max_body_bytes=10_000_000)
    if flood.startswith(b"1"):
        under_test.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(2):  # the failure is kept: what comes behind it is not looked at either
        with pytest.raises(ParseError, match=reason):
            under_test.feed(flood * (256 * 1024 // len(flood)))
    assert 0 < under_test.parts < 1100


def test_a_large_body_in_ordinary_chunks_is_taken() -> None:
    under_test = ResponseParser(method="POST", max_header_bytes=1000, max_body_bytes=10_000_000)
    under_test.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        assert under_test.feed(b"40\r\n" + b"x" * 64 + b"\r\n") == []
    (response,) = under_test.feed(b"0\r\n\r\n")
    assert len(response.body) == 64 * 20_000


def test_a_body_that_comes_byte_by_byte_is_not_one_in_small_chunks() -> None:
    body = b"x" * 5000
    for head, tail in (
        (b"Content-Length: 5000\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n1388\r\n", b"\r\n0\r\n\r\n"),
    ):
        under_test = ResponseParser(method="POST", max_header_bytes=1000, max_body_bytes=10_000)
        found = [
            each for byte in b"HTTP/1.1 200 OK\r\n" + head + body + tail for each in under_test.feed(bytes([byte]))
        ]
        assert [response.body for response in found] == [body]


def test_each_response_of_a_connection_may_have_its_own_interim_ones() -> None:
    under_test = parser()
    for _ in range(20):
        under_test.feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 8)
        assert len(under_test.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")) == 1
        under_test.renew()
