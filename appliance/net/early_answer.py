"""An answer whose body goes out while it is still coming in: for handlers that pass on megabytes of somebody else's.

The handler tells the server what has come so far, and returns the whole answer at the end as it always does. What the
client does not take at once goes with the next piece, or with the end.
"""

import socket
from typing import Final

import trio

from appliance.net import http_encoding, socket_io
from appliance.net.http import Headers, HttpResponse

_FLUSH_S: Final = 0.02


class EarlyAnswer:
    """The server's end of one connection, for the request that is being handled."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._usable = False
        self._close = False
        self._head: tuple[int, int] | None = None  # status and size of the answer that has begun
        self._unsent_head: list[bytes | memoryview] = []
        self._sent = 0
        self._broken = False

    @property
    def begun(self) -> bool:
        """Whether something of the answer is out, or was told to be."""
        return self._head is not None

    def reset(self, *, usable: bool, close: bool) -> None:
        """A request is about to be handled; for some there is no early answer. ``close``: it is the last one."""
        self._usable, self._close = usable, close
        self._head, self._sent, self._broken = None, 0, False

    def offer(self, status: int, headers: Headers, size: int, body: memoryview) -> None:
        """Of a body of ``size`` bytes this much has come, from its beginning; what is new of it goes out now.

        The first call fixes ``status``, ``headers`` and ``size``.
        """
        if not self._usable or self._broken:
            return
        if self._head is None:
            self._head = status, size
            self._unsent_head = [http_encoding.response_head(status, headers, size, close=self._close)]
        self._send(body)

    def _send(self, body: memoryview) -> None:
        head, new = self._unsent_head, body[self._sent :]
        try:
            rest = socket_io.send_parts_now(self._connection, [*head, new])
        except OSError:
            self._broken = True  # the server finds out for itself when it sends the end
            return
        if len(rest) <= 1:
            self._unsent_head = []
            self._sent = len(body) - (len(rest[0]) if rest else 0)
        else:
            self._unsent_head = rest[:1]

    async def flush(self, body: memoryview) -> None:
        """All of the body is there: let the client take it, for a moment at most."""
        with trio.move_on_after(_FLUSH_S):
            while self.begun and not self._broken and self._sent < len(body):
                await trio.lowlevel.wait_writable(self._connection)
                self._send(body)

    def rest(self, response: HttpResponse) -> list[bytes | memoryview]:
        """What of the handler's answer is still to be sent; ValueError when it is not the one that has begun."""
        if self._head != (response.status, len(response.body)):
            raise ValueError(f"{response!r} is not the answer that has begun: {self._head}")
        body = memoryview(response.body)[self._sent :]
        return [*self._unsent_head, body] if body else []
