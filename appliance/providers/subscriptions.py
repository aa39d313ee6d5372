"""Clients' subscriptions: what they asked for, under ids of ours. Pure.

An id never changes: behind it the group follows whatever endpoint is active, and the client does not notice. The
parameters are checked here, so that a wrong one is an error at once and not a silence.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from appliance.domain.errors import DecodeError
from appliance.wire.jsonrpc import MALFORMED

KINDS: Final = ("newHeads", "logs", "newPendingTransactions")


@dataclass(frozen=True, slots=True)
class NewHeads:
    """Each block's header."""


@dataclass(frozen=True, slots=True)
class Logs:
    """``criteria`` are the members `address` and `topics` of a filter, as JSON, with a comma before each."""

    criteria: bytes


@dataclass(frozen=True, slots=True)
class PendingTransactions:
    """Hashes, or whole transactions, as they enter an endpoint's pool."""

    whole: bool

    @property
    def params(self) -> bytes:
        """Those of the endpoint's own `eth_subscribe`."""
        return b'["newPendingTransactions",true]' if self.whole else b'["newPendingTransactions"]'


Subject: TypeAlias = NewHeads | Logs | PendingTransactions

_Address = str | list[str] | None
_Topics = list[str | list[str] | None] | None


class _Filter(msgspec.Struct):
    address: _Address = None
    topics: _Topics = None


_params_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_logs_decoder = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_filter_decoder = msgspec.json.Decoder(_Filter)


def parse_subject(params: bytes) -> Subject:
    """The parameters of `eth_subscribe`. Raises DecodeError, one line."""
    try:
        items = _params_decoder.decode(params or b"[]")
        kind = msgspec.json.decode(items[0], type=str) if items else ""
        match kind:
            case "newHeads":
                return NewHeads()
            case "logs":
                return Logs(_criteria(items[1]) if len(items) > 1 else b"")
            case "newPendingTransactions":
                return PendingTransactions(len(items) > 1 and msgspec.json.decode(items[1], type=bool))
    except MALFORMED as error:
        raise DecodeError(f"eth_subscribe: {error}") from None
    raise DecodeError(f"eth_subscribe: expected one of {', '.join(KINDS)}, found {kind!r}")


def parse_unsubscribe(params: bytes) -> str:
    """The id in the parameters of `eth_unsubscribe`. Raises DecodeError."""
    try:
        return msgspec.json.decode(params, type=tuple[str])[0]
    except MALFORMED as error:
        raise DecodeError(f"eth_unsubscribe: expected one subscription id: {error}") from None


def _criteria(raw: msgspec.Raw) -> bytes:
    wanted = _filter_decoder.decode(raw)
    given = {"address": wanted.address, "topics": wanted.topics}
    members = (b',"%b":%b' % (name.encode(), msgspec.json.encode(value)) for name, value in given.items() if value)
    return b"".join(members)


def logs_params(criteria: bytes, block_hash: str) -> bytes:
    """The parameters of `eth_getLogs` for one block, by its hash: exact also while the chain moves (EIP-234)."""
    return b'[{"blockHash":%b%b}]' % (msgspec.json.encode(block_hash), criteria)


def decode_logs(raw: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """The result of `eth_getLogs`, each entry as it came. Raises what `MALFORMED` names unless all are objects."""
    _logs_decoder.decode(raw)
    return _params_decoder.decode(raw)


def notification(identifier: str, result: bytes) -> bytes:
    """A message of a subscription, around ``result`` as ready JSON."""
    head = b'{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":'
    return b"".join((head, msgspec.json.encode(identifier), b',"result":', result, b"}}"))


class Registry:
    """One client's subscriptions, at most ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._subjects: dict[str, Subject] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    @property
    def full(self) -> bool:
        """Whether no further one is taken."""
        return len(self._subjects) >= self._most

    def add(self, identifier: str, subject: Subject) -> None:
        """From now on ``identifier`` gets what belongs to ``subject``."""
        self._subjects[identifier] = subject

    def remove(self, identifier: str) -> bool:
        """False when there is no such subscription."""
        return self._subjects.pop(identifier, None) is not None

    def of(self, subject: Subject) -> list[str]:
        """The ids that wait for this."""
        return [identifier for identifier, each in self._subjects.items() if each == subject]

    @property
    def subjects(self) -> set[Subject]:
        """All that the client waits for."""
        return set(self._subjects.values())


class LogMemory:
    """The logs that were shown of the last blocks under one filter, for saying that they are removed.

    Bounded by blocks and bytes; the oldest block goes first. ``has_gaps`` says that bytes were the reason: then a
    block that is not known here may have been shown.
    """

    def __init__(self, max_blocks: int, max_bytes: int) -> None:
        self.has_gaps = False
        self._max_blocks = max_blocks
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: dict[str, list[msgspec.Raw]] = {}

    def remember(self, block_hash: str, logs: list[msgspec.Raw]) -> None:
        """These were shown of this block."""
        self.forget(block_hash)
        self._blocks[block_hash] = logs
        self._bytes += _size(logs)
        while len(self._blocks) > self._max_blocks or self._bytes > self._max_bytes:
            self.has_gaps = self.has_gaps or self._bytes > self._max_bytes
            self.forget(next(iter(self._blocks)))

    def forget(self, block_hash: str) -> list[msgspec.Raw] | None:
        """Take the logs of a block out; None where they are not known (any more)."""
        logs = self._blocks.pop(block_hash, None)
        if logs is not None:
            self._bytes -= _size(logs)
        return logs


def as_removed(log: msgspec.Raw) -> bytes:
    """A log that was shown, now as go-ethereum says that it is gone: `removed` is true."""
    members = msgspec.json.decode(log, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**members, "removed": msgspec.Raw(b"true")})


def _size(logs: list[msgspec.Raw]) -> int:
    return sum(len(bytes(log)) for log in logs)
