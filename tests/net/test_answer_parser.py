"""The lean parser of answers says what `ResponseParser` says, however bytes are split."""

import itertools
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.net.answer_parser import AnswerParser
from appliance.net.http_parser import ParseError, ResponseParser

LIMITS = {"max_header_bytes": 2000, "max_body_bytes": 1000}


class Seen(NamedTuple):
    status: int
    body: bytes
    content_type: str | None
    keep_alive: bool


def lean(parts: list[bytes], *, eof: bool) -> Seen | str | None:
    parser = AnswerParser(**LIMITS)
    try:
        for part in parts:
            parser.feed(part)
        if eof:
            parser.feed_eof()
    except ParseError as error:
        return "error" if error.status != 413 else "too large"
    finally:
        parser.close()
    if not parser.whole:
        return None
    content_type = None if parser.content_type is None else parser.content_type.decode("latin-1").strip()
    return Seen(parser.status, parser.take_body(), content_type, parser.keep_alive)


def full(parts: list[bytes], *, eof: bool) -> Seen | str | None:
    parser = ResponseParser(method="POST", **LIMITS)
    found = []
    try:
        for part in parts:
            found += parser.feed(part)
        if eof:
            found += parser.feed_eof()
    except ParseError as error:
        return "error" if error.status != 413 else "too large"
    finally:
        parser.close()
    if not found:
        return None
    response = found[0]
    return Seen(response.status, response.body, response.headers.get("content-type"), parser.keep_alive)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]


def answer(status: int = 200, *fields: str, body: str = "") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} x", *fields, "", body]).encode()


ANSWERS = [
    answer(200, "Content-Type: application/json", "Content-Length: 5", body="hello"),
    answer(200, "CONTENT-TYPE: text/plain", "content-length: 0"),
    answer(200, "Transfer-Encoding: chunked", body="3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n"),
    answer(200, "Connection: close", "Content-Length: 2", body="ok"),
    answer(200, body="until the end"),
    answer(204, "Content-Length: 5"),
    answer(304),
    answer(500, "Content-Length: 3", body="bad"),
    answer(100) + answer(200, "Content-Length: 2", body="ok"),
    answer(101, "Upgrade: websocket", "Connection: upgrade"),
    answer(200, "Content-Length: 1500", body="x" * 1500),
    answer(200, "Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"),
    answer(200, "Transfer-Encoding: chunked", "Content-Length: 3", body="0\r\n\r\n"),
    answer(200, "Content-Length: 2", body="okHTTP/1.1 200 x\r\n\r\n"),
    answer(200, "Content-Length: 2", body="ok trailing"),
    answer(200, "X: " + "y" * 3000, "Content-Length: 0"),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"220 smtp\r\n",
    b"\x00\x01",
]


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 5000), max_size=6), st.booleans())
def test_it_agrees_with_the_full_parser_on_all_kinds_of_answers(data: bytes, places: list[int], eof: bool) -> None:
    parts = cut(data, places)
    assert lean(parts, eof=eof) == full(parts, eof=eof)


@given(st.sampled_from(ANSWERS), st.data())
@example(ANSWERS[0], None)
def test_it_never_fails_otherwise_than_with_a_parse_error(data: bytes, draw: st.DataObject | None) -> None:
    if draw is not None:
        place = draw.draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw.draw(st.binary(max_size=3)) + data[place + 1 :]
    lean([data], eof=True)


def test_it_goes_on_to_the_next_answer_of_a_connection() -> None:
    parser = AnswerParser(**LIMITS)
    for number in range(3):
        parser.begin()
        parser.feed(answer(200 + number, f"Content-Length: {number}", body="x" * number))
        assert (parser.whole, parser.status, parser.take_body(), parser.keep_alive) == (
            True,
            200 + number,
            b"x" * number,
            True,
        )
    parser.close()


def test_a_head_that_never_ends_is_bounded() -> None:
    parser = AnswerParser(**LIMITS)
    parser.feed(b"HTTP/1.1 200 OK\r\nA: ")
    for _ in range(19):
        parser.feed(b"a" * 100)
    with pytest.raises(ParseError, match="bytes of header"):
        parser.feed(b"a" * 100)
    parser.close()


def test_a_stale_type_is_not_the_next_answers() -> None:
    parser = AnswerParser(**LIMITS)
    parser.feed(answer(200, "Content-Type: a/b", "Content-Length: 0"))
    parser.begin()
    parser.feed(answer(200, "Content-Length: 0"))
    assert parser.content_type is None
    parser.close()
