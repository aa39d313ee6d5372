"""A TCP proxy for tests: what is between two hosts, and what can happen to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

_CHUNK = 65536


class Proxy:
    """Relays to ``target`` (host, port), until it is cut or stalled."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.port = 0
        self.connections = 0
        self._target = target
        self._cut = False
        self._flowing = trio.Event()
        self._flowing.set()
        self._scopes: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        """As a websocket's URL."""
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close every connection, and every new one at once."""
        self._cut = True
        for scope in self._scopes:
            scope.cancel()

    def stall(self) -> None:
        """Let nothing through, without a word to either side."""
        self._flowing = trio.Event()

    def heal(self) -> None:
        """Relay again; what was stalled goes on."""
        self._cut = False
        self._flowing.set()

    async def run(self, *, task_status: trio.TaskStatus["Proxy"] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started(self)
        await trio.serve_listeners(self._relay, [listener])

    async def _relay(self, client: trio.SocketStream) -> None:
        async with client:
            if self._cut:
                return
            self.connections += 1
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    await self._connect_and_copy(client)
                finally:
                    self._scopes.discard(scope)

    async def _connect_and_copy(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(*self._target)
        except OSError:
            return
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, server, nursery.cancel_scope)
            nursery.start_soon(self._copy, server, client, nursery.cancel_scope)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        """One direction; the end of either one ends both."""
        try:
            async for data in source:
                await self._flowing.wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def proxied(*targets: tuple[str, int]) -> AsyncIterator[list[Proxy]]:
    """A proxy before each target."""
    async with trio.open_nursery() as nursery:
        yield [await nursery.start(Proxy(target).run) for target in targets]
        nursery.cancel_scope.cancel()
