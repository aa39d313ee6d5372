"""The server's half of the websocket opening handshake (RFC 6455, section 4.2). Pure."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = "13"
NO_UPGRADE = "this is a websocket endpoint: connect with ws:// or wss://"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class NotAWebsocket:
    """The request asks for no websocket, or wrongly. ``status`` 426 names the version that we speak."""

    status: int
    reason: str


def accept(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...] | NotAWebsocket:
    """The headers of the 101 answer beside `Upgrade` and `Connection`, which the HTTP server writes.

    Subprotocols are declined by not being named; for extensions see `deflate.negotiate`.
    """
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        return NotAWebsocket(426, NO_UPGRADE)
    if "upgrade" not in _tokens(headers.get("connection", "")):
        return NotAWebsocket(400, "Connection must contain Upgrade")
    if headers.get("sec-websocket-version") != VERSION:
        return NotAWebsocket(426, f"Sec-WebSocket-Version must be {VERSION}")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        return NotAWebsocket(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return (("sec-websocket-accept", accept_key(key)),)


def accept_key(key: str) -> str:
    """The value of `Sec-WebSocket-Accept` for a key."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def _tokens(value: str) -> set[str]:
    return {token.strip().lower() for token in value.split(",")}


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode("ascii"), validate=True)) == 16
    except (binascii.Error, UnicodeEncodeError):
        return False
