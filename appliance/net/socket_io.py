"""Waiting reads and writes on a non-blocking socket of the standard library.

trio's own stream does the same with more layers: on small requests they are a third of the server's time.
"""

import socket
from collections.abc import Sequence
from typing import Final

import trio

# Of a body that comes as fast as it is read, so much is taken in one turn of the loop: about a third of a millisecond.
_TURN_BYTES: Final = 1024 * 1024
# Up to here head and body go out in one copy; larger bodies are not copied.
_JOIN_BYTES: Final = 16384


async def receive(connection: socket.socket, max_bytes: int) -> bytes:
    """The next bytes, empty at the end; a reset is an end too. Always a checkpoint."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            return connection.recv(max_bytes)
        except BlockingIOError:
            continue  # the kernel may wake a reader for nothing
        except OSError:
            return b""


async def receive_or_raise(connection: socket.socket, max_bytes: int) -> bytes:
    """`receive`, but a reset is told from an end: it raises `OSError`."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            return connection.recv(max_bytes)
        except BlockingIOError:
            continue


async def receive_into(connection: socket.socket, room: memoryview) -> int:
    """How many bytes have come into ``room``, 0 at the end or a reset. Always a checkpoint.

    Reads as long as there is something: the other side fills the kernel's buffer as fast as it is emptied. An end
    behind bytes is told by the next call.
    """
    while True:
        await trio.lowlevel.wait_readable(connection)
        count = _receive_into_now(connection, room[:_TURN_BYTES])
        if count is not None:
            return count


def has_come(connection: socket.socket) -> bool:
    """Whether a read would give something at once: bytes, the end, or that the connection broke."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _receive_into_now(connection: socket.socket, room: memoryview) -> int | None:
    """What is there; None when the kernel woke its reader for nothing."""
    count = 0
    while count < len(room):
        try:
            more = connection.recv_into(room[count:])
        except BlockingIOError:
            return count or None
        except OSError:
            return count
        if not more:
            return count
        count += more
    return count


def send_now(connection: socket.socket, data: bytes | memoryview) -> int:
    """How many bytes the kernel takes at once. Raises `OSError` when the connection is broken."""
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


def send_parts_now(connection: socket.socket, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """What the kernel did not take at once of several parts, which are sent without joining them. Raises `OSError`."""
    try:
        sent = connection.sendmsg(parts)
    except BlockingIOError:
        return list(parts)
    return _behind(parts, sent)


def send_message_now(connection: socket.socket, head: bytes, body: bytes) -> Sequence[bytes | memoryview]:
    """What the kernel did not take at once of a message; a small one goes out in one piece. Raises `OSError`."""
    if len(body) > _JOIN_BYTES:
        return send_parts_now(connection, [head, body])
    data = head + body
    try:
        sent = connection.send(data)
    except BlockingIOError:
        return (data,)
    return () if sent == len(data) else (memoryview(data)[sent:],)


def _behind(parts: Sequence[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    for number, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[number + 1 :]]
        sent -= len(part)
    return []


async def send_all(connection: socket.socket, *parts: bytes | memoryview) -> None:
    """Send everything, waiting as long as the other side takes. Raises `OSError`.

    What goes out at once is no checkpoint.
    """
    rest = send_parts_now(connection, parts)
    while rest:
        await trio.lowlevel.wait_writable(connection)
        rest = send_parts_now(connection, rest)
