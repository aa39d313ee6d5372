"""One request and its answer on one connection."""

from collections.abc import Sequence
from typing import Final

import trio

from appliance.net.client_wire import wire_of
from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectionBroken
from appliance.net.http import HttpResponse
from appliance.net.http_parser import ParseError, ResponseParser
from appliance.net.opening import Stream

# Up to here head and body go out in one copy; larger bodies are not copied.
_JOIN_BYTES: Final = 16384
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
        self.reusable = False

    def is_quiet(self) -> bool:
        """Nothing came while idle. Otherwise the other side closed, or sent what nobody asked for."""
        return self._wire.is_quiet()

    def close(self) -> None:
        """At once; waits for nothing."""
        self._wire.close()

    def begin(self, head: bytes, body: bytes) -> None:
        """Send what the kernel takes at once: nearly always the whole request."""
        self.reusable = self._broken = False
        parts = [head + body] if len(body) <= _JOIN_BYTES else [head, body]
        try:
            self._unsent = self._wire.send_now(parts)
        except _BROKEN:
            self._broken, self._unsent = True, ()

    async def finish(self, method: str) -> HttpResponse:
        """Send the rest and receive the answer; ``reusable`` says afterwards whether to keep the connection.

        Raises `ConnectionBroken` and `BadResponse`.
        """
        if self._unsent:
            await self._send_rest()
        parser = ResponseParser(
            method=method, max_header_bytes=self._max_header_bytes, max_body_bytes=self._max_response_bytes
        )
        try:
            response = await self._receive(parser)
            self.reusable = not self._broken and parser.keep_alive and await self._wire.is_drained()
        except ParseError as error:
            kind = AnswerTooLarge if error.status == 413 else BadResponse
            raise kind(f"bad answer from {self._origin}: {error.text}") from None
        finally:
            parser.close()
        return response

    async def _send_rest(self) -> None:
        """If not all goes out, the answer may still be there: a refusal before the body was read."""
        rest, self._unsent = self._unsent, ()
        try:
            await self._wire.send_all(rest)
        except _BROKEN:
            self._broken = True

    async def _receive(self, parser: ResponseParser) -> HttpResponse:
        anything_read = False
        while True:
            data = await self._wire.receive()
            responses = parser.feed(data) if data else parser.feed_eof()
            if responses:
                return responses[0]
            if not data:
                raise self._hung_up(anything_read)
            anything_read = True
            if parser.has_large_body():
                return await self._receive_body(parser)

    async def _receive_body(self, parser: ResponseParser) -> HttpResponse:
        """The rest of a body whose length is known: into its place, past the parser."""
        body = parser.open_body()
        while room := body.room:
            count = await self._wire.receive_into(room)
            if not count:
                raise self._hung_up(anything_read=True)
            body.advance(count)
        return parser.close_body(body)

    def _hung_up(self, anything_read: bool) -> ConnectionBroken:
        when = "in the middle of its answer" if anything_read else "before its answer"
        return ConnectionBroken(f"{self._origin} closed {when}", nothing_read=not anything_read)
