"""Ports for servers that are told where to listen, because others must find them there, also after a restart."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST, _LAST = 10_000, 32_000
"""Below the range from which the kernel takes ports for outgoing connections: one of those may be taken meanwhile."""

_random = random.SystemRandom()
_held: list[socket.socket] = []


def lasting_port() -> int:
    """A port of 127.0.0.1 that nobody else is given as long as this process lives, here or in a parallel worker.

    A socket that does not listen holds it. While it is being bound nobody else may have the port; from then on
    whoever sets SO_REUSEADDR, as servers do, may have it beside us (Linux: as long as only one of them listens).
    """
    holder = _hold()
    _held.append(holder)  # some hundred in a whole test run
    port: int = holder.getsockname()[1]
    return port


@contextmanager
def held_address() -> Iterator[str]:
    """Such a port as `127.0.0.1:port`, for those who make many: it is held until the block ends."""
    with _hold() as holder:
        yield "{}:{}".format(*holder.getsockname())


def _hold() -> socket.socket:
    while True:
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", _random.randrange(_FIRST, _LAST)))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return holder
