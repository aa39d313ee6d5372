"""The socket of one subscriber."""

import contextlib
import socket
import struct
from typing import Final

# The kernel doubles what is asked for and caps it at net.core.wmem_max (208 KiB by default, so some 400 KiB
# for data and its overhead). Left alone it starts with about 45 KB on a real link: a 200 KB flashblock
# would be a short write to every subscriber, each then served by a task of its own at four times the cost. It
# could also grow to 4 MB for each stalled one.
SEND_BUFFER_BYTES: Final = 256 * 1024


def prepare_socket(sock: socket.socket) -> None:
    """Let one frame fit into one send, and bound what a stalled subscriber keeps in the kernel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def abandon(sock: socket.socket) -> None:
    """Let the close that follows reset the connection.

    To a peer that is gone the kernel would go on sending what is left, and keep it for a quarter of an hour.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
