"""What parsing requests and responses has in common: header fields, body parts, limits, and when to raise."""

from enum import IntEnum
from typing import Final, Generic, TypeVar

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from appliance.domain.errors import RemoteError

MAX_HEADERS: Final = 128
"""Header fields in one message; more is 431."""

_FIELD_OVERHEAD: Final = 4  # ": " and CRLF
_KNOWN_NAMES: Final = {
    spelling.encode("ascii"): name
    for name in (
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "high_prio",
        "origin",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "upgrade",
        "user-agent",
        "x-fast-track",
        "x-forwarded-for",
        "x-high-priority",
    )
    for spelling in (name, name.title())
}  # saves decoding what nearly every message has
_SMALL_PART: Final = 1024
LINE_OVERHEAD: Final = 12  # spaces, version and CRLF of the request line


class ParseError(RemoteError):
    """Bytes that are no HTTP/1.1 message within the limits; ``status`` is what a server answers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Stage(IntEnum):
    """How far the message that is being received has come."""

    START = 0  # nothing of it yet
    HEAD = 1
    BODY = 2


# Looking a member up in its class takes a tenth of a microsecond, a dozen times for each request.
START: Final = Stage.START
HEAD: Final = Stage.HEAD
BODY: Final = Stage.BODY


_LlhttpT = TypeVar("_LlhttpT", HttpRequestParser, HttpResponseParser)


class MessageParser(Generic[_LlhttpT]):
    """llhttp, and the limits that it does not have. Its users add what only requests or responses have.

    The `on_…` methods are httptools' protocol. The parser object and this one refer to each other; `close`
    breaks that circle, so that a connection's memory is free at once and not at the next collection.
    """

    _parser: _LlhttpT

    def __init__(self, *, max_header_bytes: int, max_body_bytes: int, max_headers: int) -> None:
        self.stage = START
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._max_headers = max_headers
        self._failure: ParseError | None = None
        self._raw_fields: list[tuple[bytes, bytes]] = []
        self._fields: dict[str, str] = {}
        self._parts: list[bytes | bytearray] = []
        self._length: int | None = None  # of the body, where its head tells
        self._body_bytes = 0
        self._moved = False
        self._stalled_bytes = 0

    def close(self) -> None:
        """Release the memory; the parser takes no more bytes."""
        del self._parser
        self._parts = []
        self._failure = None  # its traceback refers to us

    def check(self) -> None:
        """Raise the `ParseError` that was kept back because whole messages came before the fault."""
        if self._failure is not None:
            raise self._failure

    def is_between(self) -> bool:
        """Whether all that came were whole messages."""
        return self.stage is START and self._failure is None

    def _parse(self, data: bytes | bytearray | memoryview) -> None:
        """Feed llhttp. A fault is kept in ``_failure``; an upgrade goes up as httptools raises it."""
        self._moved = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise
        except HttpParserError as error:
            self._keep_failure(error)
        if not self._moved:
            self._count_stalled(len(data))
        elif self._stalled_bytes:
            self._stalled_bytes = 0

    def _keep_failure(self, error: HttpParserError) -> None:
        if self._failure is not None:
            return  # raised by a method of ours, and kept by it
        if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
            raise error.__context__  # httptools caught what is not ours to answer, such as KeyboardInterrupt
        self._fail(400, str(error))

    def _count_stalled(self, size: int) -> None:
        """Bytes that brought neither the end of a head nor any body: half a head, chunk extensions, trailers.

        httptools collects an unfinished field without a bound, so the bound is here; the size of
        one `feed` comes on top.
        """
        self._stalled_bytes += size
        if self._stalled_bytes > self._max_header_bytes:
            self._fail(431, f"more than {self._max_header_bytes} bytes of header")

    def _fail(self, status: int, text: str) -> ParseError:
        if self._failure is None:
            self._failure = ParseError(status, text)
        return self._failure

    def on_message_begin(self) -> None:
        self._moved = True
        self.stage = HEAD
        self._raw_fields = []
        self._parts = []
        self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if self.stage is HEAD:  # else a trailer: checked by llhttp, and dropped
            self._raw_fields.append((name, value or b""))

    def _take_fields(self, size: int) -> None:
        """The head is whole: check its limits, ``size`` being that of its first line, and decode the fields."""
        raw = self._raw_fields
        if len(raw) > self._max_headers:
            raise self._fail(431, f"more than {self._max_headers} header fields")
        fields: dict[str, str] = {}
        self._fields = fields
        for raw_name, raw_value in raw:
            size += len(raw_name) + len(raw_value) + _FIELD_OVERHEAD
            name = _KNOWN_NAMES.get(raw_name) or raw_name.decode("latin-1").lower()
            value = raw_value.decode("latin-1").rstrip(" \t")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        if size > self._max_header_bytes:
            raise self._fail(431, f"more than {self._max_header_bytes} bytes of header")

    def _begin_body(self) -> None:
        self._moved = True
        self.stage = BODY
        length = self._fields.get("content-length")
        self._length = None
        if length is not None:
            self._length = int(length)
            if self._length > self._max_body_bytes:
                raise self._body_too_large()

    def on_body(self, data: bytes) -> None:
        self._moved = True
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            raise self._body_too_large()
        if self._parts:
            self._add_part(data)
        else:
            self._parts = [data]

    def _add_part(self, data: bytes) -> None:
        """Small parts are collected, since a body in chunks of one byte would take 40 times its size."""
        parts = self._parts
        if len(data) >= _SMALL_PART:
            parts.append(data)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += data
        else:
            parts.append(bytearray(data))

    def _body_too_large(self) -> ParseError:
        return self._fail(413, f"body larger than {self._max_body_bytes} bytes")

    def _take_body(self) -> bytes:
        self._moved = True
        self.stage = START
        parts, self._parts = self._parts, []
        if not parts:
            return b""
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)  # `bytes` of bytes copies nothing
