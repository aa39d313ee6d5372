"""What the HTTP client reads and writes: a plain TCP socket, or trio's TLS stream.

For plain TCP it is the standard library's socket, as in the server: trio's stream costs a turn of the event loop for
each send, and a receive into a buffer of ours is not to be had from it.
"""

import select
import socket
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import trio

from appliance.net import socket_io
from appliance.net.opening import Stream, close_hard, transport_of

# Of a large body the rest is read into its place: more than this would only cost memory that is fresh each time.
_RECEIVE_BYTES: Final = 64 * 1024


Parts: TypeAlias = Sequence[bytes | memoryview]
"""Bytes to send one behind the other, without joining them first."""


class Wire(Protocol):
    """A connection's bytes."""

    def send_now(self, parts: Parts) -> Parts:
        """Send without waiting; answers what is left. Raises OSError."""

    async def send_all(self, parts: Parts) -> None:
        """Send everything, waiting as long as the other side takes. Raises OSError or BrokenResourceError."""

    async def receive(self) -> bytes | bytearray:
        """The next bytes, none at the end. Raises OSError or BrokenResourceError at a reset: no answer ends so."""

    async def receive_into(self, room: memoryview) -> int:
        """How many bytes have come into ``room``, 0 at the end or a reset: ``room`` says what is missing."""

    async def is_drained(self) -> bool:
        """Whether nothing came behind the answer, as far as this side holds it."""

    def is_quiet(self) -> bool:
        """Whether nothing waits in the kernel: neither bytes nor an end."""

    def close(self) -> None:
        """At once; waits for nothing."""


def wire_of(stream: Stream) -> Wire:
    """Take over a stream."""
    return TlsWire(stream) if isinstance(stream, trio.SSLStream) else PlainWire(stream)


class PlainWire:
    """TCP; ``stream`` gives its socket away."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)

    def send_now(self, parts: Parts) -> Parts:
        """One system call."""
        return socket_io.send_parts_now(self._socket, parts)

    async def send_all(self, parts: Parts) -> None:
        """Raises OSError."""
        await socket_io.send_all(self._socket, *parts)

    async def receive(self) -> bytes:
        """Always a checkpoint. Raises OSError."""
        return await socket_io.receive_or_raise(self._socket, _RECEIVE_BYTES)

    async def receive_into(self, room: memoryview) -> int:
        """Always a checkpoint."""
        return await socket_io.receive_into(self._socket, room)

    async def is_drained(self) -> bool:
        """Nothing is held on this side: the parser has seen all that was read."""
        return True

    def is_quiet(self) -> bool:
        """One system call."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Who waits for the socket is woken."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TlsWire:
    """TLS, which sends nothing at once: a handshake of its own may be due."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    def send_now(self, parts: Parts) -> Parts:
        """Nothing goes out."""
        return parts

    async def send_all(self, parts: Parts) -> None:
        """Raises BrokenResourceError."""
        for part in parts:
            await self._stream.send_all(part)

    async def receive(self) -> bytes | bytearray:
        """Bytes of one or several records. Raises BrokenResourceError."""
        return await self._stream.receive_some(_RECEIVE_BYTES)

    async def receive_into(self, room: memoryview) -> int:
        """TLS decrypts into a buffer of its own, so this is a copy."""
        data = await self._receive_some(min(len(room), _RECEIVE_BYTES))
        room[: len(data)] = data
        return len(data)

    async def is_drained(self) -> bool:
        """Nothing came behind the answer: one read of TLS may leave further records in trio's buffer.

        The cancellation comes with the next turn of the loop, not before: a scope that is cancelled
        already would end the read before it looks at that buffer. Shielded, since the answer is here.
        """
        with trio.CancelScope(shield=True) as scope:
            trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
            await self._receive_some(_RECEIVE_BYTES)
            return False
        return True

    def is_quiet(self) -> bool:
        """This sees the kernel's buffer only; for what TLS holds `is_drained` was asked before."""
        poll = select.poll()
        poll.register(transport_of(self._stream).socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Without a goodbye."""
        close_hard(self._stream)

    async def _receive_some(self, max_bytes: int) -> bytes | bytearray:
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            return b""
