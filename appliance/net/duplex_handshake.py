"""The handshakes of binary websockets (duplex.py), from both sides: who asks, who judges, and why one failed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from appliance.domain.errors import UnavailableError
from appliance.net.errors import ConnectFailed, ConnectionBroken, WebsocketRefused
from appliance.net.opening import Endpoint, Stream

_RECEIVE_BYTES: Final = 256 * 1024
_REASON_BYTES: Final = 500


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status and one line that says why a connection is not taken."""

    status: int
    text: str


Authorize = Callable[[str, Mapping[str, str]], Refusal | None]
"""Judges who connects, by the request's target and headers (names in lower case)."""


async def ask(stream: Stream, endpoint: Endpoint, headers: Mapping[str, str]) -> WSConnection:
    """The client's side; raises `ConnectFailed`, or `WebsocketRefused` with the status."""
    connection = WSConnection(ConnectionType.CLIENT)
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request(host=endpoint.authority, target=endpoint.target, extra_headers=extra)
    try:
        await stream.send_all(connection.send(request))
        event = await _first_event(stream, connection, endpoint.origin)
        if isinstance(event, AcceptConnection):
            return connection
        if isinstance(event, RejectConnection):
            raise await _refused(stream, connection, endpoint.origin, event)
    except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError, UnavailableError) as error:
        if isinstance(error, WebsocketRefused):
            raise
        raise ConnectFailed(f"no websocket handshake with {endpoint.origin}: {_why_not(error, endpoint)}") from None
    raise ConnectFailed(f"no websocket handshake with {endpoint.origin}: unexpected {event!r}")


async def _first_event(stream: Stream, connection: WSConnection, name: str) -> Event:
    while True:
        for event in connection.events():
            return event
        data = await receive_some(stream, name)
        try:
            connection.receive_data(data)
        except UnicodeError as error:  # of a header: the library only expects ASCII
            raise RemoteProtocolError(str(error)) from None


async def _refused(
    stream: Stream, connection: WSConnection, origin: str, rejected: RejectConnection
) -> WebsocketRefused:
    body = b""
    while rejected.has_body and len(body) < _REASON_BYTES:
        try:
            event = await _first_event(stream, connection, origin)
        except (UnavailableError, RemoteProtocolError, LocalProtocolError):
            break
        if not isinstance(event, RejectData):
            break
        body += bytes(event.data)
        if event.body_finished:
            break
    text = body[:_REASON_BYTES].decode("utf-8", "replace").strip()
    return WebsocketRefused(origin, rejected.status_code, text.splitlines()[0] if text else "")


async def judge(stream: Stream, name: str, authorize: Authorize) -> WSConnection | None:
    """The server's side; None where the client was refused, or is no websocket client."""
    connection = WSConnection(ConnectionType.SERVER)
    try:
        event = await _first_event(stream, connection, name)
        if not isinstance(event, Request):
            return None
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in event.extra_headers}
        refusal = authorize(event.target, headers)
        if refusal is not None:
            await stream.send_all(_rejection(connection, refusal))
            return None
        await stream.send_all(connection.send(AcceptConnection()))
    except RemoteProtocolError as error:
        await _send_hint(stream, connection, error)
        return None
    except (UnavailableError, trio.BrokenResourceError, trio.ClosedResourceError):
        return None
    return connection


def _rejection(connection: WSConnection, refusal: Refusal) -> bytes:
    text = refusal.text.encode() + b"\n"
    headers = [(b"content-length", str(len(text)).encode()), (b"content-type", b"text/plain")]
    head = connection.send(RejectConnection(status_code=refusal.status, headers=headers, has_body=True))
    return head + connection.send(RejectData(data=text))


async def _send_hint(stream: Stream, connection: WSConnection, error: RemoteProtocolError) -> None:
    """What came was HTTP, but no websocket: the library knows the right answer."""
    if error.event_hint is None:
        return
    try:
        await stream.send_all(connection.send(error.event_hint))
    except (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
        return


async def receive_some(stream: Stream, name: str) -> bytes:
    """Some bytes; raises `ConnectionBroken` at the end of the stream."""
    try:
        data = await stream.receive_some(_RECEIVE_BYTES)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionBroken(f"the connection with {name} broke: {why(error)}") from None
    if not data:
        raise ConnectionBroken(f"{name} ended the connection")
    return bytes(data)


def _why_not(error: BaseException, endpoint: Endpoint) -> str:
    """Who wants TLS, or another certificate, says so by hanging up, now so and now so: one reason for all."""
    if isinstance(error, RemoteProtocolError):
        return why(error)
    likely = "it may not take our certificate" if endpoint.secure else "it may want TLS (wss)"
    return f"it ended the connection without an answer; {likely}"


def why(error: BaseException) -> str:
    """An error in words."""
    return str(error.__cause__ or error) or type(error).__name__
