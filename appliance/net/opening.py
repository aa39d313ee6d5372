"""Opening a connection to a URL: name, TCP and TLS, with one deadline and our errors."""

import base64
import os
import ssl
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import trio

from appliance.domain.errors import ConfigError
from appliance.net.errors import ConnectFailed

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECURE: Final = frozenset({"https", "wss"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL taken apart. ``target`` is path and query; ``authorization`` is Basic for `user:password@`."""

    scheme: str
    host: str
    port: int
    target: str
    authorization: str | None

    @property
    def secure(self) -> bool:
        """Whether it is reached through TLS."""
        return self.scheme in _SECURE

    @property
    def authority(self) -> str:
        """What goes into `Host`: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """For people: no path, query or credentials, since those may be secret."""
        return f"{self.scheme}://{self.authority}"


def parse_url(url: str, *schemes: str) -> Endpoint:
    """Raises `ConfigError`, one line, for a URL that is not of ``schemes`` or has no usable host or port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"URL: {error}") from None
    if parts.scheme not in schemes:
        raise ConfigError(f"URL: expected {'://… or '.join(schemes)}://…, found scheme {parts.scheme!r}")
    if not parts.hostname:
        raise ConfigError(f"URL: expected {parts.scheme}://host…, found no host")
    return Endpoint(
        parts.scheme,
        parts.hostname,
        _DEFAULT_PORTS[parts.scheme] if port is None else port,
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        _basic_authorization(parts),
    )


def _basic_authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


def transport_of(stream: Stream) -> trio.SocketStream:
    """The TCP stream, under TLS or not."""
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream


def close_hard(stream: Stream) -> None:
    """Close at once, without a TLS goodbye: works in a cancelled scope, since it waits for nothing."""
    transport_of(stream).socket.close()


async def open_stream(endpoint: Endpoint, ssl_context: ssl.SSLContext | None, timeout_s: float) -> Stream:
    """Connect (the fastest of the host's addresses) and shake hands. Raises `ConnectFailed`."""
    with trio.move_on_after(timeout_s):
        stream = await _open_tcp(endpoint)
        # trio's 16 KiB bound on unsent bytes costs a wake-up for every 16 KiB of a large request.
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, 0)
        if ssl_context is None:
            return stream
        return await _open_tls(stream, endpoint, ssl_context)
    raise ConnectFailed(f"no connection to {endpoint.origin} within {timeout_s * 1000:.0f} ms")


async def _open_tcp(endpoint: Endpoint) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(f"no connection to {endpoint.origin}: {_reason(error)}") from None


def _reason(error: OSError | UnicodeError) -> str:
    """trio's own text only counts the attempts; the causes say why."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    best = cause if isinstance(cause, OSError) else error
    number = best.errno if isinstance(best, OSError) else None
    # Names that are not found have negative numbers and a text of their own.
    return os.strerror(number) if number is not None and number > 0 else str(best)


async def _open_tls(
    tcp: trio.SocketStream, endpoint: Endpoint, ssl_context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    try:
        stream = trio.SSLStream(tcp, ssl_context, server_hostname=endpoint.host, https_compatible=True)
        await stream.do_handshake()
    except (trio.BrokenResourceError, OSError, ValueError) as error:
        tcp.socket.close()
        raise ConnectFailed(f"no TLS with {endpoint.origin}: {error.__cause__ or error}") from None
    except BaseException:
        tcp.socket.close()
        raise
    return stream
