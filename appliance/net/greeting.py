"""A websocket's opening handshake in one go, where the whole request is there when the connection is accepted.

Nearly always it is: a client sends it with the last packet of TCP's handshake. Then no task, no deadline and no turn of
the loop is needed, and 9,000 who come back at once are answered in less than half of the time.
"""

import socket
from collections.abc import Callable
from typing import Final

from appliance.net import http_encoding
from appliance.net.http import Headers, HttpRequest
from appliance.net.http_parser import ParseError, RequestParser
from appliance.net.http_session import HandOver, HttpLimits

Greet = Callable[[HttpRequest], HandOver | None]
"""What to answer a websocket's request with, if that is known without waiting; None leaves it to the handler."""

_REQUEST_BYTES: Final = 4096  # a longer request goes the ordinary way


def greet(accepted: socket.socket, peer: str, limits: HttpLimits, answer: Greet) -> tuple[HandOver, bytes] | None:
    """Answer with 101, if ``answer`` wants to: then what it said, and the bytes behind the request.

    None leaves everything unread, for the ordinary way. Raises `OSError` when the connection is broken.
    """
    try:
        data = accepted.recv(_REQUEST_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    parsed = _parse(data, peer, limits)
    handed = None if parsed is None else answer(parsed[0])
    if parsed is None or handed is None:
        return None
    accepted.recv(len(data))
    head = http_encoding.switching_head(Headers(handed.headers))
    if accepted.send(head) < len(head):
        raise OSError("a new connection does not take a head")
    return handed, parsed[1]


def _parse(data: bytes, peer: str, limits: HttpLimits) -> tuple[HttpRequest, bytes] | None:
    """One whole request for a websocket and what follows it; None for anything else, bad or good."""
    if not data.startswith(b"GET ") or len(data) == _REQUEST_BYTES:
        return None
    parser = RequestParser(
        max_header_bytes=limits.max_header_bytes,
        max_body_bytes=limits.max_body_bytes,
        max_headers=limits.max_headers,
        peer=peer,
    )
    try:
        requests = parser.feed(data)
        found = requests[0] if len(requests) == 1 and requests[0].upgrade else None
        return None if found is None else (found, parser.rest)
    except ParseError:
        return None
    finally:
        parser.close()
