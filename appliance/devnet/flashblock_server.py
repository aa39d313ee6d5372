"""The websocket on which a simulated builder publishes flashblocks to whoever connects."""

from typing import Final

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
)

Message = str | bytes
# A listener that is this far behind is cut off, as op-rbuilder's broadcast channel drops one that lags.
WAITING_MESSAGES: Final = 256


class FlashblockServer:
    """Everything published goes to every listener; nothing is kept for those who come later."""

    def __init__(self) -> None:
        self._listeners: set[trio.MemorySendChannel[Message]] = set()
        self._changed = trio.Event()

    @property
    def listeners(self) -> int:
        """How many are connected."""
        return len(self._listeners)

    async def wait_listeners(self, count: int = 1) -> None:
        """Return when at least `count` are connected."""
        while len(self._listeners) < count:
            await self._changed.wait()

    def publish(self, message: Message) -> None:
        """Send text as a text frame, bytes as a binary frame, to all. Never blocks."""
        for listener in list(self._listeners):
            try:
                listener.send_nowait(message)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._remove(listener)

    async def run(self, address: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started()` gives the address as it was bound."""
        host, _, port = address.rpartition(":")
        async with trio.open_nursery() as nursery:
            server: WebSocketServer = await nursery.start(serve_websocket, self._handle, host, int(port), None)
            task_status.started(f"{host}:{server.port}")

    async def _handle(self, request: WebSocketRequest) -> None:
        try:
            connection = await request.accept()
            await self._serve(connection)
        except (HandshakeError, ConnectionClosed, ConnectionTimeout, trio.BrokenResourceError):
            return  # one listener's trouble is nobody else's

    async def _serve(self, connection: WebSocketConnection) -> None:
        listener, messages = trio.open_memory_channel[Message](WAITING_MESSAGES)
        self._listeners.add(listener)
        self._wake()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, connection, nursery.cancel_scope)
                async with messages:
                    async for message in messages:
                        await connection.send_message(message)
                nursery.cancel_scope.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self._remove(listener)

    @staticmethod
    async def _drain(connection: WebSocketConnection, scope: trio.CancelScope) -> None:
        """Read and forget: an unread message would block pings and closes behind it."""
        try:
            while True:
                await connection.get_message()
        except ConnectionClosed:
            scope.cancel()

    def _remove(self, listener: trio.MemorySendChannel[Message]) -> None:
        self._listeners.discard(listener)
        listener.close()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
