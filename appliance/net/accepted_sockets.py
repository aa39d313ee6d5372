"""What a server does with a socket at the accept."""

import socket


def prepare(accepted: socket.socket) -> None:
    """Non-blocking, and no delay of small answers."""
    accepted.setblocking(False)
    if accepted.family != socket.AF_UNIX:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def refuse(accepted: socket.socket, answer: bytes) -> None:
    """Say why and close, without a task: under a flood this must cost less than serving."""
    try:
        accepted.setblocking(False)
        accepted.send(answer)
        accepted.shutdown(socket.SHUT_WR)
        accepted.recv(65536)  # closing over an unread request would make a reset of it, and lose the 503
    except OSError:
        pass  # nothing to read, or it went away already
    finally:
        accepted.close()


def peer_of(address: object) -> str:
    """The IP address; IPv4 over an IPv6 socket in dotted form, so that limits by address see one client."""
    host = address[0] if isinstance(address, tuple) else ""
    return str(host).removeprefix("::ffff:")


def address_of(listener: socket.socket) -> str:
    """Where a socket listens: `host:port`, or a path."""
    name = listener.getsockname()
    if listener.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
