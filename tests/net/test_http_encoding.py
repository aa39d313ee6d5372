import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net import http_encoding
from appliance.net.http import Headers

NAMES = st.from_regex(r"x-[a-z][a-z0-9-]{0,20}", fullmatch=True)
VALUES = st.from_regex(r"([!-~]([ -~]{0,30}[!-~])?)?", fullmatch=True)


def test_a_response_head_has_its_length_and_no_headers_of_another_connection() -> None:
    headers = Headers(
        {
            "Content-Type": "application/json",
            "Content-Length": "999",
            "Transfer-Encoding": "chunked",
            "Connection": "keep-alive",
            "Keep-Alive": "timeout=5",
        }
    )

    head = http_encoding.response_head(200, headers, 12, close=False)

    assert head == b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n"


def test_a_response_says_when_it_is_the_last() -> None:
    head = http_encoding.response_head(404, Headers(), 0, close=True)

    assert head == b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def test_a_response_without_body_has_no_length() -> None:
    assert http_encoding.response_head(204, Headers(), 0, close=False) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_status_without_a_name_is_sent_as_it_is() -> None:
    assert http_encoding.response_head(299, Headers(), 0, close=False).startswith(b"HTTP/1.1 299 \r\n")


def test_switching_protocols_names_the_protocol_once() -> None:
    head = http_encoding.switching_head(Headers({"Upgrade": "websocket", "Sec-WebSocket-Accept": "abc"}))

    assert head == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: abc\r\n\r\n"
    )


def test_a_request_head_has_a_length_where_a_body_is_expected() -> None:
    headers = Headers({"Host": "el:8551"})

    assert http_encoding.request_head("GET", "/x", headers, 0) == b"GET /x HTTP/1.1\r\nhost: el:8551\r\n\r\n"
    assert b"content-length: 0\r\n" in http_encoding.request_head("POST", "/", headers, 0)
    assert b"content-length: 7\r\n" in http_encoding.request_head("GET", "/", headers, 7)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
def test_a_header_that_would_break_out_of_its_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        http_encoding.response_head(200, Headers({"x": value}), 0, close=False)
    with pytest.raises(ValueError, match="line break"):
        http_encoding.request_head("GET", "/", Headers({"x": value}), 0)


@pytest.mark.parametrize("target", ["", "/a b", "/ HTTP/1.1\r\nx: y", "/a\n"])
def test_a_target_that_would_break_the_request_line_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"target|line break"):
        http_encoding.request_head("GET", target, Headers(), 0)


@given(st.dictionaries(NAMES, VALUES, max_size=10), st.integers(0, 1000), st.sampled_from([200, 401, 503]))
def test_h11_reads_back_what_is_encoded(fields: dict[str, str], size: int, status: int) -> None:
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    peer.send(h11.EndOfMessage())

    peer.receive_data(http_encoding.response_head(status, Headers(fields), size, close=False))

    event = peer.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == status
    got = {name.decode(): value.decode() for name, value in event.headers}
    assert got == {**fields, "content-length": str(size)}
