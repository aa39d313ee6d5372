"""The server's side of one websocket as messages: for conversations, not for fan-out.

After the upgrade: a reader that hands whole text messages to a handler, a writer that sends frames one after the
other from a bounded queue, and pings. A client that does not read is closed when its queue is full, one that does
not answer pings when the pong is overdue; neither holds up anybody else.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError

from appliance.net.http_server import Connection

GOING_AWAY: Final = 1001
UNSUPPORTED_DATA: Final = 1003
TOO_BIG: Final = 1009
TRY_AGAIN_LATER: Final = 1013
_RECEIVE_BYTES: Final = 65536
# Frames of a few bytes, or of none, cost memory too: pongs that nobody reads, pieces of a message without end.
_FRAME_OVERHEAD: Final = 64
_REASON_BYTES: Final = 123  # RFC 6455, 5.5: a control frame's payload is 125 bytes, two of them the code


@dataclass(frozen=True, slots=True)
class WebsocketLimits:
    """What one client may cost. Times in seconds.

    A message over ``max_message_bytes`` closes with 1009; each of its pieces counts for 64 bytes more. Over
    ``max_waiting_bytes`` of frames that the client has not read yet, what waits is thrown away and the client closed
    with 1013; one message goes to who has read all, however large.
    """

    max_message_bytes: int = 8 * 1024 * 1024
    max_waiting_bytes: int = 16 * 1024 * 1024
    ping_interval_s: float = 15.0
    pong_timeout_s: float = 15.0
    close_timeout_s: float = 2.0


class ServerWebsocket:
    """One client. ``send`` and ``close`` may be called by any task, and never wait."""

    def __init__(self, connection: Connection, data: bytes, limits: WebsocketLimits) -> None:
        self.peer = connection.peer
        self.close_reason: tuple[int, str] | None = None
        self._stream = connection.stream
        self._limits = limits
        self._protocol = Protocol(ConnectionType.SERVER, trailing_data=data)
        self._waiting: deque[bytes] = deque()  # bounded by max_waiting_bytes, see `send`
        self._waiting_bytes = 0
        self._more = trio.Event()
        self._written = trio.Event()
        self._pong = trio.Event()
        self._busy = False
        self._message: list[str] = []
        self._message_bytes = 0
        self._scope = trio.CancelScope()
        self._written.set()

    @property
    def closing(self) -> bool:
        """Whether `close` was called, here or there: what is sent now goes nowhere."""
        return self._protocol.state is not ConnectionState.OPEN

    def send(self, text: bytes) -> bool:
        """Queue a text message; false when the client is being closed, or is now because it does not read."""
        if self.closing:
            return False
        if self._is_over(len(text)):
            return False
        # What an endpoint's HTTP answer had in a string may be no UTF-8, and a text message must be.
        self._queue(TextMessage(data=text.decode(errors="replace")))
        return True

    def close(self, code: int, reason: str) -> None:
        """Say goodbye behind what is queued; the client has `close_timeout_s` to take it and to answer."""
        if self.closing:
            return
        self.close_reason = (code, reason)
        self._queue(CloseConnection(code=code, reason=_short(reason)))
        self._scope.deadline = trio.current_time() + self._limits.close_timeout_s

    async def run(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        """Converse until either side closes. ``handle`` gets each text message; while it runs nothing is read."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_for_ever)
                nursery.start_soon(self._ping_for_ever)
                await self._read(handle)
                await self._flush()
                nursery.cancel_scope.cancel()

    def _is_over(self, size: int) -> bool:
        """Whether ``size`` more bytes are too many: then the client is closed. Where nothing waits one message fits."""
        if not self._waiting_bytes or self._waiting_bytes + size <= self._limits.max_waiting_bytes:
            return False
        self._waiting.clear()
        self._waiting_bytes = 0
        self.close(TRY_AGAIN_LATER, f"too slow: more than {self._limits.max_waiting_bytes} bytes wait")
        return True

    def _queue(self, event: Event) -> None:
        try:
            frame = self._protocol.send(event)
        except LocalProtocolError:
            return  # it closed a moment ago
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        self._written = trio.Event()
        self._more.set()

    async def _read(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        while not await self._handle_events(handle):
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._protocol.receive_data(data or None)

    async def _handle_events(self, handle: Callable[[bytes], Awaitable[None]]) -> bool:
        """Handle what has come; true at the conversation's end."""
        for event in self._protocol.events():
            if isinstance(event, CloseConnection):
                self._answer_close(event)
                return True
            message = self._take(event)
            if message is not None and not self.closing:
                self._busy = True
                await handle(message)
                self._busy = False
        return self._protocol.state is ConnectionState.CLOSED

    def _take(self, event: Event) -> bytes | None:
        """The message that this event completes."""
        match event:
            case Ping():
                if not self._is_over(_FRAME_OVERHEAD + len(event.payload)):
                    self._queue(event.response())
            case Pong():
                self._pong.set()
            case BytesMessage():
                self.close(UNSUPPORTED_DATA, "JSON-RPC goes in text messages")
            case TextMessage():
                return self._piece(event)
        return None

    def _piece(self, event: TextMessage) -> bytes | None:
        self._message_bytes += len(event.data) + (0 if event.message_finished else _FRAME_OVERHEAD)
        if self._message_bytes > self._limits.max_message_bytes:
            self.close(TOO_BIG, f"at most {self._limits.max_message_bytes} bytes are taken")
            return None
        self._message.append(event.data)
        if not event.message_finished:
            return None
        whole = "".join(self._message).encode()
        self._message, self._message_bytes = [], 0
        return whole

    def _answer_close(self, event: CloseConnection) -> None:
        if self._protocol.state is ConnectionState.REMOTE_CLOSING:
            self._queue(event.response())
        elif self._protocol.state is ConnectionState.OPEN:  # not its close: what it sent is no websocket
            self.close(int(event.code), event.reason or "protocol error")

    async def _write_for_ever(self) -> None:
        try:
            while True:
                while self._waiting:
                    frame = self._waiting.popleft()
                    await self._stream.send_all(frame)
                    self._waiting_bytes = max(0, self._waiting_bytes - len(frame))
                self._written.set()
                self._more = trio.Event()
                await self._more.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()  # it went away

    async def _flush(self) -> None:
        """Give the writer time for the last frames; the connection closes right behind them."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._limits.close_timeout_s)
        await self._written.wait()

    async def _ping_for_ever(self) -> None:
        while True:
            await trio.sleep(self._limits.ping_interval_s)
            self._pong = trio.Event()
            self._queue(Ping())
            with trio.move_on_after(self._limits.pong_timeout_s):
                await self._pong.wait()
                continue
            if not self._busy:  # while its calls are handled nothing is read, pongs neither
                self.close_reason = self.close_reason or (TRY_AGAIN_LATER, "no pong")
                self._scope.cancel()


def _short(reason: str) -> str:
    """As much of it as fits into a close frame."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
