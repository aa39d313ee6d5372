"""One request and its answer on one connection."""

import select

import trio

from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectionBroken
from appliance.net.http import HttpResponse
from appliance.net.http_parser import ParseError, ResponseParser
from appliance.net.opening import Stream, close_hard, transport_of

# Large, because answers may be megabytes and each read costs a turn of the loop.
_RECEIVE_BYTES = 256 * 1024
_JOIN_BYTES = 16384


class ClientConnection:
    """A connection to an origin, used for one request at a time.

    After any failure or cancellation within `exchange` it must be closed: bytes of the old answer may come.
    """

    def __init__(self, stream: Stream, origin: str, *, max_header_bytes: int, max_response_bytes: int) -> None:
        self._stream = stream
        self._origin = origin
        self._max_header_bytes = max_header_bytes
        self._max_response_bytes = max_response_bytes
        self.reusable = False

    def is_quiet(self) -> bool:
        """Nothing came while idle. Otherwise the other side closed, or sent what nobody asked for.

        This sees the kernel's buffer only; what TLS held already made ``reusable`` false.
        """
        poll = select.poll()
        poll.register(transport_of(self._stream).socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """At once; waits for nothing."""
        close_hard(self._stream)

    async def exchange(self, method: str, head: bytes, body: bytes) -> HttpResponse:
        """Send the request and receive the answer; ``reusable`` says afterwards whether to keep the connection.

        Raises `ConnectionBroken` and `BadResponse`.
        """
        self.reusable = False
        sent = await self._send(head, body)
        parser = ResponseParser(
            method=method, max_header_bytes=self._max_header_bytes, max_body_bytes=self._max_response_bytes
        )
        try:
            response = await self._receive(parser)
            self.reusable = sent and parser.keep_alive and await self._is_drained()
        except ParseError as error:
            kind = AnswerTooLarge if error.status == 413 else BadResponse
            raise kind(f"bad answer from {self._origin}: {error.text}") from None
        finally:
            parser.close()
        return response

    async def _send(self, head: bytes, body: bytes) -> bool:
        """Whether all went out. If not, the answer may still be there: a refusal before the body was read."""
        try:
            if len(body) <= _JOIN_BYTES:
                await self._stream.send_all(head + body)
            else:
                await self._stream.send_all(head)
                await self._stream.send_all(body)
        except trio.BrokenResourceError:
            return False
        return True

    async def _receive(self, parser: ResponseParser) -> HttpResponse:
        anything_read = False
        while True:
            data = await self._receive_some()
            responses = parser.feed(data) if data else parser.feed_eof()
            if responses:
                return responses[0]
            if not data:
                raise self._broken(anything_read)
            anything_read = True

    async def _is_drained(self) -> bool:
        """Nothing came behind the answer: one read of TLS may leave further records in trio's buffer.

        The cancellation comes with the next turn of the loop, not before: a scope that is cancelled
        already would end the read before it looks at that buffer. Shielded, since the answer is here.
        """
        if not isinstance(self._stream, trio.SSLStream):
            return True
        with trio.CancelScope(shield=True) as scope:
            trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
            await self._receive_some()
            return False
        return True

    async def _receive_some(self) -> bytes | bytearray:
        """A reset is an end like any other: what was read decides what it means."""
        try:
            return await self._stream.receive_some(_RECEIVE_BYTES)
        except trio.BrokenResourceError:
            return b""

    def _broken(self, anything_read: bool) -> ConnectionBroken:
        when = "in the middle of its answer" if anything_read else "before its answer"
        return ConnectionBroken(f"{self._origin} closed {when}", nothing_read=not anything_read)
