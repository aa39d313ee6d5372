"""Promises of the parsers, on any bytes: the split does not matter, and nothing but ParseError is raised."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_parser import ParseError, RequestParser, ResponseParser
from tests.net.splitting import cut, cuts

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True).filter(
    lambda name: name.lower() not in {"connection", "upgrade", "expect", "transfer-encoding", "content-length"}
)
VALUES = st.from_regex(r"([!-~]([ -~]{0,20}[!-~])?)?", fullmatch=True)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
BODIES = st.binary(max_size=200)


@dataclass(frozen=True)
class Written:
    """A request, and the bytes of it."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    chunk_sizes: list[int] | None

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.fields)]
        if self.chunk_sizes is None:
            lines.append(f"Content-Length: {len(self.body)}")
            return "\r\n".join([*lines, "", ""]).encode() + self.body
        lines.append("Transfer-Encoding: chunked")
        return "\r\n".join([*lines, "", ""]).encode() + chunked(self.body, self.chunk_sizes)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    pieces = cut(body, sizes)
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


WRITTEN = st.builds(
    Written,
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    st.from_regex(r"/[a-z0-9/?=&%._-]{0,30}", fullmatch=True),
    FIELDS,
    BODIES,
    st.none() | st.lists(st.integers(0, 1000), max_size=5),
)

PIECES = st.sampled_from(
    [
        *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n"),
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 \r\n", b"HTTP/1.0 204\r\n"),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
        *(b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n"),
        *(b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\r\n", b"\n", b": ", b"\0", b"\xff"),
    ]
)
NEARLY_HTTP = st.lists(PIECES | st.binary(max_size=5), max_size=25).map(b"".join)


def parse_requests(pieces: list[bytes]) -> tuple[list[HttpRequest], int | None, bytes]:
    """Every request, the status of the fault if there is one, and what follows an upgrade."""
    parser = RequestParser(max_header_bytes=8000, max_body_bytes=1000)
    requests: list[HttpRequest] = []
    try:
        for piece in pieces:
            requests += parser.feed(piece)
        parser.check()
    except ParseError as error:
        return requests, error.status, parser.rest
    return requests, None, parser.rest


def parse_response(pieces: list[bytes], method: str) -> tuple[list[HttpResponse], bool, bool]:
    """The response, whether the connection can be used again, and whether there is a fault."""
    parser = ResponseParser(method=method, max_header_bytes=8000, max_body_bytes=1000)
    responses: list[HttpResponse] = []
    try:
        for piece in pieces:
            responses += parser.feed(piece)
        responses += parser.feed_eof()
    except ParseError:
        return responses, False, True
    return responses, parser.keep_alive, False


@given(st.lists(WRITTEN, max_size=4), cuts())
def test_requests_come_out_as_they_were_written_however_they_are_split(
    written: list[Written], places: list[int]
) -> None:
    data = b"".join(one.encode() for one in written)

    requests, fault, rest = parse_requests(cut(data, places))

    assert (fault, rest) == (None, b"")
    got = [(request.method, request.target, request.body) for request in requests]
    assert got == [(one.method, one.target, one.body) for one in written]
    for request, one in zip(requests, written, strict=True):
        for name, _ in one.fields:
            values = [value for other, value in one.fields if other.lower() == name.lower()]
            assert request.headers[name.lower()] == ", ".join(values)


@settings(max_examples=400)
@given(NEARLY_HTTP, cuts())
def test_bytes_that_are_nearly_requests_give_the_same_outcome_however_they_are_split(
    data: bytes, places: list[int]
) -> None:
    whole = parse_requests([data] if data else [])

    assert parse_requests(cut(data, places)) == whole
    assert parse_requests([data[i : i + 1] for i in range(len(data))]) == whole


@settings(max_examples=400)
@given(NEARLY_HTTP, st.sampled_from(["GET", "HEAD", "POST"]), cuts())
def test_bytes_that_are_nearly_a_response_give_the_same_outcome_however_they_are_split(
    data: bytes, method: str, places: list[int]
) -> None:
    whole = parse_response([data] if data else [], method)

    assert parse_response(cut(data, places), method) == whole
    assert parse_response([data[i : i + 1] for i in range(len(data))], method) == whole


@given(WRITTEN, st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=3)), max_size=4), cuts())
def test_damaged_requests_give_requests_or_a_status(
    written: Written, damage: list[tuple[int, bytes]], places: list[int]
) -> None:
    data = bytearray(written.encode())
    for place, bytes_put in damage:
        begin = place % (len(data) + 1)
        data[begin : begin + 1] = bytes_put

    requests, fault, _ = parse_requests(cut(bytes(data), places))

    assert all(isinstance(request, HttpRequest) for request in requests)
    assert fault is None or 400 <= fault < 600


@given(st.binary(max_size=300), cuts())
def test_garbage_gives_a_status_and_no_other_error(data: bytes, places: list[int]) -> None:
    _, fault, _ = parse_requests(cut(data, places))
    parse_response(cut(data, places), "GET")

    assert fault is None or 400 <= fault < 600
