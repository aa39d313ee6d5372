"""A websocket's opening handshake in one go, where the whole request is there.

Mostly it is when the connection is accepted: a client sends it right behind the last packet of TCP's handshake. Then no
task, no deadline and no turn of the loop is needed, and 9,000 who come back at once are answered in less than half of
the time. Whose request comes later waits in the `Lobby`.
"""

import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from appliance.net import http_encoding
from appliance.net.http import Headers, HttpRequest
from appliance.net.http_parser import ParseError, RequestParser, Stage
from appliance.net.http_session import HandOver, HttpLimits

Greet = Callable[[HttpRequest], HandOver | None]
"""What to answer a websocket's request with, if that is known without waiting; None leaves it to the handler."""

# Half a head is parsed anew with all that comes; a longer one by a session, which goes on where it was.
_LONG_HALF: Final = 1024


class Unanswered(Enum):
    """Why nothing was answered, and nothing read."""

    NOT_YET = auto()  # what came is the begin of a request at most
    NOT_AT_ONCE = auto()  # the ordinary way is for it


def greet(accepted: socket.socket, peer: str, limits: HttpLimits, answer: Greet) -> tuple[HandOver, bytes] | Unanswered:
    """Answer with 101, if ``answer`` wants to: then what it said, and the bytes behind the request.

    Raises `OSError` when the connection is broken.
    """
    try:
        data = accepted.recv(limits.max_header_bytes + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return Unanswered.NOT_YET
    parsed = _parse(data, peer, limits)
    if isinstance(parsed, Unanswered):
        return parsed
    handed = answer(parsed[0])
    if handed is None:
        return Unanswered.NOT_AT_ONCE
    accepted.recv(len(data))
    head = http_encoding.switching_head(Headers(handed.headers))
    if accepted.send(head) < len(head):
        raise OSError("a new connection does not take a head")
    return handed, parsed[1]


def _parse(data: bytes, peer: str, limits: HttpLimits) -> tuple[HttpRequest, bytes] | Unanswered:
    """One whole request for a websocket and what follows it; anything else, bad or good, is not for us."""
    if not data.startswith(b"GET ") or len(data) > limits.max_header_bytes:
        return Unanswered.NOT_AT_ONCE
    if len(data) > _LONG_HALF and b"\r\n\r\n" not in data:
        return Unanswered.NOT_AT_ONCE
    parser = RequestParser(
        max_header_bytes=limits.max_header_bytes,
        max_body_bytes=limits.max_body_bytes,
        max_headers=limits.max_headers,
        peer=peer,
    )
    try:
        requests = parser.feed(data)
        if not requests and parser.stage is Stage.HEAD:
            return Unanswered.NOT_YET
        found = requests[0] if len(requests) == 1 and requests[0].upgrade else None
        return Unanswered.NOT_AT_ONCE if found is None else (found, parser.rest)
    except ParseError:
        return Unanswered.NOT_AT_ONCE
    finally:
        parser.close()
