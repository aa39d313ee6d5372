"""One request and its answer on one connection."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import trio

from appliance.net.client_wire import wire_of
from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectionBroken
from appliance.net.http import HttpResponse
from appliance.net.http_parser import ParseError, ResponseParser
from appliance.net.opening import Stream

# Up to here head and body go out in one copy; larger bodies are not copied.
_JOIN_BYTES: Final = 16384
BodyWatch: TypeAlias = Callable[[int, int, memoryview], None]
"""(HTTP status, size, the body so far): told each time that more of a large body of known length has come."""

_BROKEN: Final = (OSError, trio.BrokenResourceError)


class ClientConnection:
    """A connection to an origin, used for one request at a time: `begin`, then `finish`.

    After any failure or cancellation within `finish`, or when it is not called, it must be closed: bytes of the old
    answer may come.
    """

    def __init__(self, stream: Stream, origin: str, *, max_header_bytes: int, max_response_bytes: int) -> None:
        self._wire = wire_of(stream)
        self._origin = origin
        self._max_header_bytes = max_header_bytes
        self._max_response_bytes = max_response_bytes
        self._unsent: Sequence[bytes | memoryview] = ()
        self._broken = False
        self._parser: ResponseParser | None = None
        self.reusable = False

    def is_quiet(self) -> bool:
        """Nothing came while idle. Otherwise the other side closed, or sent what nobody asked for."""
        return self._wire.is_quiet()

    def close(self) -> None:
        """At once; waits for nothing."""
        self._wire.close()
        if self._parser is not None:
            self._parser.close()
            self._parser = None

    def begin(self, head: bytes, body: bytes) -> None:
        """Send what the kernel takes at once: nearly always the whole request."""
        self.reusable = self._broken = False
        parts = [head + body] if len(body) <= _JOIN_BYTES else [head, body]
        try:
            self._unsent = self._wire.send_now(parts)
        except _BROKEN:
            self._broken, self._unsent = True, ()

    async def finish(self, method: str, watch: BodyWatch | None = None) -> HttpResponse:
        """Send the rest and receive the answer; ``reusable`` says afterwards whether to keep the connection.

        ``watch`` sees a large body come. Raises `ConnectionBroken` and `BadResponse`.
        """
        if self._unsent:
            await self._send_rest()
        parser = self._take_parser(method)
        try:
            response = await self._receive(parser, watch)
            self.reusable = not self._broken and parser.keep_alive and await self._wire.is_drained()
        except ParseError as error:
            kind = AnswerTooLarge if error.status == 413 else BadResponse
            raise kind(f"bad answer from {self._origin}: {error.text}") from None
        finally:
            if self.reusable and parser.renewable:
                self._parser = parser
            else:
                parser.close()
        return response

    def _take_parser(self, method: str) -> ResponseParser:
        """The one of the answer before, where it ended as most do: making one takes a third of parsing an answer."""
        parser, self._parser = self._parser, None
        if parser is not None and method != "HEAD":
            parser.renew()
            return parser
        if parser is not None:
            parser.close()
        return ResponseParser(
            method=method, max_header_bytes=self._max_header_bytes, max_body_bytes=self._max_response_bytes
        )

    async def _send_rest(self) -> None:
        """If not all goes out, the answer may still be there: a refusal before the body was read."""
        rest, self._unsent = self._unsent, ()
        try:
            await self._wire.send_all(rest)
        except _BROKEN:
            self._broken = True

    async def _receive(self, parser: ResponseParser, watch: BodyWatch | None) -> HttpResponse:
        anything_read = False
        while True:
            try:
                data = await self._wire.receive()
            except _BROKEN:
                raise self._hung_up(anything_read) from None
            responses = parser.feed(data) if data else parser.feed_eof()
            if responses:
                return responses[0]
            if not data:
                raise self._hung_up(anything_read)
            anything_read = True
            if parser.has_large_body():
                return await self._receive_body(parser, watch)

    async def _receive_body(self, parser: ResponseParser, watch: BodyWatch | None) -> HttpResponse:
        """The rest of a body whose length is known: into its place, past the parser."""
        if watch is not None:
            watch(parser.status, parser.body_size, parser.body_so_far())  # before the time that making room takes
        body = parser.open_body()
        while room := body.room:
            count = await self._wire.receive_into(room)
            if not count:
                raise self._hung_up(anything_read=True)
            body.advance(count)
            if watch is not None:
                watch(parser.status, parser.body_size, body.so_far())
        return parser.close_body(body)

    def _hung_up(self, anything_read: bool) -> ConnectionBroken:
        when = "in the middle of its answer" if anything_read else "before its answer"
        return ConnectionBroken(f"{self._origin} closed {when}", nothing_read=not anything_read)
