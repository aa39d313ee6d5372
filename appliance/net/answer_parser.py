"""Answers to POSTs on one kept-alive connection, for a proxy: only what it passes on is taken out of a head.

`ResponseParser` keeps every field and serves one message; this one keeps the status, the body and the type, and goes
on to the next message, in half the time. llhttp checks the grammar in both, and the rest is the same: sizes,
versions, codings, interim answers, bodies that end with the connection.
"""

from typing import Final

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from appliance.net.http_parser import ParseError

_TYPE: Final = 1
_LENGTH: Final = 2
_CODING: Final = 3
_NAMES: Final = {b"content-type": _TYPE, b"content-length": _LENGTH, b"transfer-encoding": _CODING}
# The usual spellings; any other one is made lower case first.
_SPELLINGS: Final = _NAMES | {b"Content-Type": _TYPE, b"Content-Length": _LENGTH, b"Transfer-Encoding": _CODING}
_NO_BODY: Final = frozenset({204, 304})


class AnswerParser:
    """Call `begin`, then `feed` until ``whole``; then ``status``, `take_body`, ``content_type`` and ``keep_alive``.

    Raises `ParseError` as `ResponseParser`; after that, or when ``keep_alive`` is false, the parser is done. The
    `on_…` methods are httptools' protocol. `close` breaks the circle between the two parsers.
    """

    def __init__(self, *, max_header_bytes: int, max_body_bytes: int) -> None:
        self._parser = HttpResponseParser(self)
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._failure: ParseError | None = None
        self._parts: list[bytes] = []
        self.begin()

    def begin(self) -> None:
        """A request goes out: the next bytes are its answer."""
        self.whole = False
        self.keep_alive = False
        self.status = 0
        self.content_type: bytes | None = None
        self._framed = False
        self._head_over = False
        self._head_bytes = 0
        self._body_bytes = 0

    def close(self) -> None:
        """Release the memory; the parser takes no more bytes."""
        del self._parser
        self._failure = None

    def feed(self, data: bytes) -> None:
        """Take bytes; ``whole`` says afterwards whether the answer is there."""
        before = self._head_bytes + self._body_bytes
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._fail(502, "an upgrade that was not asked for")
        except HttpParserError as error:
            self._keep_failure(error)
        if self._failure is not None:
            if not self.whole:
                raise self._failure
            self.keep_alive = False  # what is wrong came behind the answer
        elif not self.whole and self._head_bytes + self._body_bytes == before:
            self._count_stalled(len(data))

    def feed_eof(self) -> None:
        """The other side closed: that is the end of an answer which says no other."""
        if self._head_over and not self._framed and self.status >= 200:
            self.whole = True

    def take_body(self) -> bytes:
        """The body; once."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keep_failure(self, error: HttpParserError) -> None:
        if self._failure is not None:
            return  # raised by a method of ours
        if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
            raise error.__context__
        self._fail(502, str(error))

    def _count_stalled(self, size: int) -> None:
        """Half a field, chunk extensions, trailers: httptools collects them without a bound."""
        self._head_bytes += size
        if self._head_bytes > self._max_header_bytes:
            raise self._fail(502, f"more than {self._max_header_bytes} bytes of header")

    def _fail(self, status: int, text: str) -> ParseError:
        if self._failure is None:
            self._failure = ParseError(status, text)
        return self._failure

    def on_message_begin(self) -> None:
        if self.whole:
            self.keep_alive = False
            raise self._fail(502, "bytes behind the response")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self._head_bytes += len(name) + 4
        if value is not None:
            self._head_bytes += len(value)
        if self._head_bytes > self._max_header_bytes:
            raise self._fail(502, f"more than {self._max_header_bytes} bytes of header")
        known = _SPELLINGS.get(name) or _NAMES.get(name.lower())
        if known is None or self._head_over:
            return
        if known == _TYPE:
            self.content_type = value
        else:
            self._framed = True
            if known == _CODING and (value or b"").strip().lower() != b"chunked":
                raise self._fail(502, "the only transfer coding understood here is chunked")

    def on_headers_complete(self) -> None:
        self._head_bytes += 1
        status = self.status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise self._fail(502, f"response in HTTP/{self._parser.get_http_version()}")
        if status == 101:
            raise self._fail(502, "an upgrade that was not asked for")
        self._head_over = True
        if status in _NO_BODY:
            self.whole = True  # and no other request on this connection: llhttp may wait for a body all the same
        elif status >= 200:
            self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        self._body_bytes += len(part)
        if self._body_bytes > self._max_body_bytes:
            self._parts = []
            raise self._fail(413, f"body larger than {self._max_body_bytes} bytes")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.whole = True
        else:
            self.begin()  # an interim answer: the real one follows
