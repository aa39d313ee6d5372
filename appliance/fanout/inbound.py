"""What subscribers send: pings, pongs and a close are answered, anything else is tolerated in small amounts.

Pure: bytes in, events out. Framing errors are found by wsproto; the limits are ours. Subscribers have
nothing to say, so the limits only keep one of them from costing the others time.
"""

from dataclasses import dataclass
from typing import Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason

from appliance.fanout.deflate import Inflate

MAX_MESSAGE_BYTES = 16 * 1024
FLOOD_BYTES_PER_S = 4 * 1024  # some 500 pings a second, far beyond any keep-alive
FLOOD_BURST_BYTES = 64 * 1024
_TOO_BIG = f"at most {MAX_MESSAGE_BYTES} bytes are taken"


@dataclass(frozen=True, slots=True)
class PingReceived:
    """To be answered with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """An answer to a ping of ours, or unsolicited: either way the subscriber is alive."""


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The subscriber's close frame; ``code`` is None when it gave none."""

    code: int | None


@dataclass(frozen=True, slots=True)
class Violation:
    """The connection has to be closed with this code; nothing after it is read."""

    code: int
    reason: str


Heard = PingReceived | PongReceived | CloseReceived | Violation


_BARE_PONG: Final = b"\x8a\x80"  # a whole frame, masked, of no length; four bytes of mask follow
_BARE_PONG_BYTES: Final = 6


def is_bare_pong(data: bytes) -> bool:
    """Whether this is the answer to a ping of ours, and nothing else: all that most subscribers ever say."""
    return len(data) == _BARE_PONG_BYTES and data.startswith(_BARE_PONG)


class Inbound:
    """The receiving half of one websocket connection."""

    __slots__ = ("_allowance", "_connection", "_finished", "_message_bytes", "_refilled_at")

    def __init__(self, now: float, *, deflate: bool = False) -> None:
        """``deflate``: permessage-deflate was negotiated, so messages may come compressed."""
        extensions: list[Extension] = [Inflate(MAX_MESSAGE_BYTES)] if deflate else []
        self._connection = Connection(ConnectionType.SERVER, extensions)
        self._message_bytes = 0
        self._allowance = float(FLOOD_BURST_BYTES)
        self._refilled_at = now
        self._finished = False

    def feed(self, data: bytes, now: float) -> list[Heard]:
        """The events in some more bytes. After a close or a violation there are no more."""
        if self._finished:
            return []
        if not self._affords(len(data), now):
            self._finished = True
            return [Violation(CloseReason.POLICY_VIOLATION, "too many messages")]
        self._connection.receive_data(data)
        heard: list[Heard] = []
        for event in self._connection.events():
            translated = self._translate(event)
            if translated is not None:
                heard.append(translated)
                if isinstance(translated, CloseReceived | Violation):
                    self._finished = True
                    break
        return heard

    def _affords(self, size: int, now: float) -> bool:
        refilled = self._allowance + (now - self._refilled_at) * FLOOD_BYTES_PER_S
        self._allowance = min(refilled, FLOOD_BURST_BYTES) - size
        self._refilled_at = now
        return self._allowance >= 0

    def _translate(self, event: Event) -> Heard | None:
        if isinstance(event, Ping):
            return PingReceived(bytes(event.payload))
        if isinstance(event, Pong):
            return PongReceived()
        if isinstance(event, CloseConnection):
            return self._closed(event)
        if isinstance(event, (TextMessage, BytesMessage)):
            return self._ignored(event)
        return None

    def _closed(self, event: CloseConnection) -> Heard:
        if self._connection.state is not ConnectionState.REMOTE_CLOSING:
            too_big = event.code == CloseReason.MESSAGE_TOO_BIG
            return Violation(int(event.code), _TOO_BIG if too_big else event.reason or "protocol error")
        return CloseReceived(None if event.code == CloseReason.NO_STATUS_RCVD else int(event.code))

    def _ignored(self, event: TextMessage | BytesMessage) -> Heard | None:
        # The decoder passes the pieces of a message on as they come, so counting is enough: none is kept.
        self._message_bytes += len(event.data)
        if self._message_bytes > MAX_MESSAGE_BYTES:
            return Violation(CloseReason.MESSAGE_TOO_BIG, _TOO_BIG)
        if event.message_finished:
            self._message_bytes = 0
        return None
