"""The bytes of request and response heads. Pure; bodies are never copied here."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from appliance.net.http import Headers

BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: text/plain\r\ncontent-length: 21\r\n\r\ntoo many connections\n"
)
"""A whole answer, for connections over the limit."""

TOO_OFTEN: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 5\r\n"
    b"content-type: application/json\r\ncontent-length: 54\r\n\r\n"
    b'{"message": "too many connections from this address"}\n'
)
"""A whole answer, for an address that connects too often."""

TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: text/plain\r\ncontent-length: 35\r\n\r\nthe request did not arrive in time\n"
)
"""A whole answer, for half a request."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUS_WITHOUT_BODY: Final = frozenset({204, 304})

# They speak of one connection, so each hop writes its own (RFC 9110, 7.6.1).
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def response_head(status: int, headers: Headers, body_size: int, *, close: bool) -> bytes:
    """Status line and header fields of a final response.

    Raises `ValueError` for a name or value that would break out of its line.
    """
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    length = b"" if status in _STATUS_WITHOUT_BODY else b"content-length: %d\r\n" % body_size
    return b"".join((line, headers.lines(_fields), length, b"connection: close\r\n\r\n" if close else b"\r\n"))


def switching_head(headers: Headers) -> bytes:
    """The head of `101 Switching Protocols` to websocket with ``headers`` (Sec-WebSocket-Accept, …)."""
    return b"%bconnection: Upgrade\r\nupgrade: websocket\r\n%b\r\n" % (_STATUS_LINES[101], headers.lines(_fields))


def request_head(method: str, target: str, headers: Headers, body_size: int) -> bytes:
    """Request line and header fields; ``headers`` holds Host. Raises `ValueError` as `response_head` does."""
    if " " in target or not target:
        raise ValueError(f"request target {target!r}")
    line = _encode([f"{method} {target} HTTP/1.1\r\n"])
    with_length = body_size or method in ("POST", "PUT", "PATCH")
    length = b"content-length: %d\r\n" % body_size if with_length else b""
    return b"".join((line, headers.lines(_fields), length, b"\r\n"))


def _fields(headers: Headers) -> bytes:
    return _encode([f"{name}: {value}\r\n" for name, value in headers.items() if name not in _HOP_BY_HOP])


def _encode(lines: Sequence[str]) -> bytes:
    text = "".join(lines)
    if text.count("\r") != len(lines) or text.count("\n") != len(lines):
        raise ValueError("a header field holds a line break")
    return text.encode("latin-1")
