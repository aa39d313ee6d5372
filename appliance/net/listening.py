"""Opening the socket that a server listens on."""

import os
import socket
from typing import Final

from appliance.domain.errors import ConfigError

# The kernel caps it at net.core.somaxconn (4096 by default). What is over it waits for its SYN to be sent again.
BACKLOG: Final = 4096


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` (all IPv4 interfaces). Raises `ConfigError`."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f'address "{address}": expected host:port')
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f'address "{address}": an IPv6 host goes in brackets')
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what ":port" says


def open_listener(address: str) -> socket.socket:
    """A listening, non-blocking TCP socket; port 0 lets the kernel choose.

    A name is looked up, which may block: for the start of the process. A name with several addresses is
    bound to its first IPv4 one. Raises `ConfigError`, one line with the address and why.
    """
    host, port = split_address(address)
    try:
        family, target = _resolve(host, port)
        return _bind(family, target)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"cannot listen on {address}: {reason}") from None


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # stable: IPv4 first
    family, _, _, _, target = found[0]
    return family, (str(target[0]), port) if family == socket.AF_INET else (str(target[0]), port, 0, 0)


def _bind(family: socket.AddressFamily, target: tuple[str, int] | tuple[str, int, int, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
