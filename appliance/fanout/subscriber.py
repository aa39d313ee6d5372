"""The task of one subscriber: it reads what comes, and lives as long as the connection. Idle, it is one wait."""

import contextlib
import socket
import struct
from typing import Final

import trio

from appliance.fanout.frames import Variant
from appliance.fanout.hub import Hub
from appliance.fanout.inbound import CloseReceived, Heard, Inbound, PingReceived, Violation
from appliance.fanout.session import Session

# One read parses at most some 85 frames, about a millisecond.
RECEIVE_BYTES: Final = 512
# What is thrown away while the other side finishes closing.
DISCARD_BYTES: Final = 16 * 1024

# The kernel doubles what is asked for and caps it at net.core.wmem_max (208 KiB by default, so some 400 KiB
# for data and its overhead). Left alone it starts with about 45 KB on a real link: a 200 KB flashblock
# would be a short write to every subscriber, each then served by a task of its own at four times the cost. It
# could also grow to 4 MB for each stalled one.
SEND_BUFFER_BYTES: Final = 256 * 1024


def prepare_socket(sock: socket.socket) -> None:
    """Let one frame fit into one send, and bound what a stalled subscriber keeps in the kernel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def abandon(sock: socket.socket) -> None:
    """Let the close that follows reset the connection.

    To a peer that is gone the kernel would go on sending what is left, and keep it for a quarter of an hour.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def converse(hub: Hub, session: Session, sock: socket.socket, data: bytes) -> None:
    """Read until the connection ends, answering pings and the close. ``data`` was read already.

    Returns when the closing handshake is done or the other side is gone. Raises OSError when it broke.
    """
    inbound: Inbound | None = None
    while data or (data := await _receive(sock, RECEIVE_BYTES)):
        # Made with the first bytes: one that never says anything costs no parser.
        inbound = inbound or Inbound(trio.current_time(), deflate=session.variant is Variant.DEFLATE)
        if _react(hub, session, inbound.feed(data[:RECEIVE_BYTES], trio.current_time())):
            break
        data = data[RECEIVE_BYTES:]
        if data:
            await trio.lowlevel.checkpoint()
    if data and not session.closed:
        await _discard(sock)


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Some bytes, none at the end. The stream is not used: its frames would stay on the stack of each task."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(size)
        except BlockingIOError:
            continue


def _react(hub: Hub, session: Session, events: list[Heard]) -> bool:
    """Do what is asked for; true when nothing more is to be read."""
    session.heard()
    for event in events:
        if isinstance(event, PingReceived):
            session.queue_pong(event.payload)
        elif isinstance(event, CloseReceived):
            session.close_received = True
            hub.close(session, event.code, "", trio.current_time())
            return True
        elif isinstance(event, Violation):
            hub.close(session, event.code, event.reason, trio.current_time())
            return True
    hub.write_control(session)
    return False


async def _discard(sock: socket.socket) -> None:
    """Throw away what still comes, until the other side ends the connection or our close has gone.

    Closing with unread bytes would make the kernel reset the connection and could destroy the close frame
    on its way. The hub ends the wait when the closing is done, at the latest at its deadline.
    """
    while await _receive(sock, DISCARD_BYTES):
        pass
