"""Ports for servers that come back after a while."""

import random
import socket

_FIRST, _LAST = 10_000, 32_000
"""Below the range from which the kernel takes ports for outgoing connections: one of those may be taken meanwhile."""

_random = random.SystemRandom()


def lasting_port() -> int:
    """A port that is free now, and that nobody is given by chance."""
    while True:
        port = _random.randrange(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
