"""What two hosts say to each other about a log: one MessagePack array per binary websocket message.

    follower                              source
    Hello ------------------------------>
          <------------------------------ Welcome, or Refusal and the end
          <------------------------------ Pruned, Closed ..., then in the order of the source's log:
          <------------------------------ Entries, and between them Committed, Closed, Settled
    Ack -------------------------------->

The first element names the kind. `VERSION` is in Hello and Welcome; a host refuses any other than its own, so a
change of the form is a new version, and elements may be added at the end within one.
"""

import hashlib
import hmac
from collections.abc import Collection, Sized
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import PREFIX_BYTES

VERSION: Final = 1
NONCE_BYTES: Final = 16
PROOF_BYTES: Final = 32
MAX_MESSAGE_BYTES: Final = 8 * 2**20
"""A batch holds 1 MiB of bodies, or one body of at most 2 MiB; the rest is room for another version."""

MAX_ITEMS: Final = 1024
"""Entries, places or names in one message, several times what a host sends: more would hold the other side's loop."""

MAX_TEXT: Final = 1024
"""Characters in a name, an id or a reason."""

MAX_AGE_S: Final = 1e10
"""Three hundred years: beyond that there is no point in time to make of it."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What all messages share."""


class Hello(Message, frozen=True, array_like=True, tag="hello"):
    """The follower's first message. ``cursor_log_id`` is empty where this source was never followed.

    ``recovering``: its votes do not count, because its log is not the one that voted before.
    """

    version: int
    host_id: str
    log_id: str
    nonce: bytes
    follow_only: bool
    recovering: bool
    cursor_log_id: str
    cursor: int
    voters: list[str]
    quorum: int


class Welcome(Message, frozen=True, array_like=True, tag="welcome"):
    """The source's answer. ``appended`` is its last position now; ``proof`` shows that it knows the secret.

    ``another_log``: it followed another log of this follower before.
    """

    version: int
    host_id: str
    log_id: str
    proof: bytes
    appended: int
    follow_only: bool
    recovering: bool
    another_log: bool
    voters: list[str]
    quorum: int


class Refusal(Message, frozen=True, array_like=True, tag="refusal"):
    """Why there will be no link. The connection is closed after it."""

    reason: str


class WireEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the source's log: ``position`` is there, ``prefix`` includes this body.

    ``age_s`` is the time since it came to its origin, so that hosts need not have the same clock. ``body`` is None
    where the source had it from the follower. ``committed``: the source knows that it is.
    """

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    age_s: float
    body: bytes | None
    prefix: bytes
    committed: bool


class Entries(Message, frozen=True, array_like=True, tag="entries"):
    """Entries in the source's order."""

    entries: list[WireEntry]


class WirePlace(msgspec.Struct, frozen=True, array_like=True):
    """A flashblock on a branch."""

    payload_id: PayloadId
    index: int
    prefix: bytes


class Committed(Message, frozen=True, array_like=True, tag="committed"):
    """Entries that were sent before they were committed, and are now."""

    places: list[WirePlace]


class Settled(Message, frozen=True, array_like=True, tag="settled"):
    """What became of a payload, as far as the source knows. Best effort: nothing depends on it but what is shown."""

    payload_id: PayloadId
    state: PayloadState
    block_hash: str | None


class Closed(Message, frozen=True, array_like=True, tag="closed"):
    """The source takes nothing of the payload from index ``at`` on.

    ``logs``, where nothing can be committed there: the voters' logs, by host_id, whose votes that rests on.
    """

    payload_id: PayloadId
    at: int
    logs: dict[str, str] | None


class Pruned(Message, frozen=True, array_like=True, tag="pruned"):
    """Retention at the source removed everything up to ``through``, past the follower's cursor."""

    through: int


class Passed(Message, frozen=True, array_like=True, tag="passed"):
    """Nothing of the source's log is left up to ``through`` that was not sent: the last entries have gone elsewhere."""

    through: int


class Ack(Message, frozen=True, array_like=True, tag="ack"):
    """Everything up to ``through`` was dealt with, and is on the follower's disk but for some positions.

    ``refused``: another branch is there. ``ended``: the follower has all before it, and takes nothing at this index.
    """

    through: int
    refused: list[int]
    ended: list[int]


AnyMessage = Hello | Welcome | Refusal | Entries | Committed | Settled | Closed | Pruned | Passed | Ack

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """The bytes of one websocket message."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """The message in ``data``. DecodeError names what is wrong, also for values beyond their bounds."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"a replication message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are taken")
    try:
        message: AnyMessage = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a replication message: {error}") from error
    _check(message)
    return message


def welcome_proof(secret: bytes, nonce: bytes, *, follower: str, source: str, log_id: str) -> bytes:
    """HMAC-SHA256 over the follower's nonce, both names and the source's log: a replay fits no other link."""
    parts = (b"welcome", nonce, follower.encode(), source.encode(), log_id.encode())
    return hmac.new(secret, b"\0".join(hashlib.sha256(part).digest() for part in parts), hashlib.sha256).digest()


def proves(welcome: Welcome, secret: bytes, nonce: bytes, *, follower: str) -> bool:
    """Whether the source knows the secret; constant time."""
    expected = welcome_proof(secret, nonce, follower=follower, source=welcome.host_id, log_id=welcome.log_id)
    return hmac.compare_digest(expected, welcome.proof)


def _check(message: AnyMessage) -> None:
    match message:
        case Entries():
            _check_entries(message)
        case Hello() | Welcome():
            _check_greeting(message)
        case Refusal():
            _is_short("reason", message.reason)
        case Committed():
            _are_few("places", message.places)
            for place in message.places:
                _check_place(place)
        case Settled():
            _is_short("payload_id", message.payload_id)
            _is_short("block_hash", message.block_hash or "")
        case Ack():
            _in_range("through", message.through)
            _are_few("refused", message.refused)
            _are_few("ended", message.ended)
        case Pruned() | Passed():
            _in_range("through", message.through)
        case Closed():
            _in_range("at", message.at)
            _is_short("payload_id", message.payload_id)
            _are_names("logs", [*(message.logs or {}), *(message.logs or {}).values()])


def _check_greeting(message: Hello | Welcome) -> None:
    if isinstance(message, Hello):
        _in_range("cursor", message.cursor)
        _has_bytes("nonce", message.nonce, NONCE_BYTES)
        _is_short("cursor_log_id", message.cursor_log_id)
    else:
        _in_range("appended", message.appended)
    _is_short("host_id", message.host_id)
    _is_short("log_id", message.log_id)
    _are_names("voters", message.voters)


def _check_entries(message: Entries) -> None:
    if not message.entries:
        raise DecodeError("entries: none, expected at least one")
    _are_few("entries", message.entries)
    before = 0
    for entry in message.entries:
        _in_range("position", entry.position)
        _in_range("block_number", entry.block_number)
        _is_short("builder", entry.builder)
        _check_place(entry)
        if not 0 <= entry.age_s <= MAX_AGE_S:
            raise DecodeError(f"age_s: {entry.age_s}, expected a number of seconds from 0")
        if entry.position <= before:
            raise DecodeError(f"position: {entry.position} after {before}, expected a greater one")
        before = entry.position


def _check_place(place: WireEntry | WirePlace) -> None:
    _is_short("payload_id", place.payload_id)
    _in_range("index", place.index)
    _has_bytes("prefix", place.prefix, PREFIX_BYTES)


def _are_few(name: str, items: Sized) -> None:
    if len(items) > MAX_ITEMS:
        raise DecodeError(f"{name}: {len(items)}, at most {MAX_ITEMS} are taken")


def _are_names(name: str, items: Collection[str]) -> None:
    _are_few(name, items)
    for item in items:
        _is_short(name, item)


def _is_short(name: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise DecodeError(f"{name}: {len(text)} characters, at most {MAX_TEXT} are taken")


def _has_bytes(name: str, value: bytes, expected: int) -> None:
    if len(value) != expected:
        raise DecodeError(f"{name}: {len(value)} bytes, expected {expected}")


def _in_range(name: str, value: int) -> None:
    if not 0 <= value < 2**63:
        raise DecodeError(f"{name}: {value}, expected a number from 0 to 2^63 - 1")
