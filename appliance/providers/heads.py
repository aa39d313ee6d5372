"""The chain as subscribers have seen it: each block of the canonical chain once, in order. Pure.

Endpoints show heads: pushed, polled, late, twice, with blocks missing in between, or another endpoint's view after a
failover. A head is attached to what subscribers saw last by walking from parent to parent; the blocks on the way are
asked for by hash, so that nothing can be mixed up when the chain moves meanwhile. Where the walk meets the seen
chain below its tip, that is a reorg: the blocks above have been removed, and the new branch is shown.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.providers.quantity import decode_quantity
from appliance.wire.jsonrpc import MALFORMED

# In a block's answer and not in a header's notification (go-ethereum's newHeads).
_ONLY_IN_BLOCKS: Final = ("transactions", "uncles", "withdrawals", "size", "totalDifficulty")


class _Fields(msgspec.Struct, frozen=True):
    hash: str
    parentHash: str  # noqa: N815 the field's name on the wire
    number: str
    timestamp: str


_decoder = msgspec.json.Decoder(_Fields)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Header:
    """One block's header. ``raw`` is JSON as a newHeads notification has it; ``timestamp`` in Unix seconds."""

    hash: str
    parent: str
    number: int
    timestamp: int
    raw: bytes

    @classmethod
    def decode(cls, raw: bytes | msgspec.Raw, *, of_block: bool = False) -> "Header":
        """A header, or a block's answer (``of_block``) cut down to one. Raises DecodeError."""
        try:
            fields = _decoder.decode(raw)
            number, timestamp = decode_quantity(fields.number), decode_quantity(fields.timestamp)
            return cls(fields.hash, fields.parentHash, number, timestamp, _cut(raw) if of_block else bytes(raw))
        except (*MALFORMED, DecodeError) as error:
            raise DecodeError(f"not a block header: {error}") from None


def _cut(block: bytes | msgspec.Raw) -> bytes:
    members = _members_decoder.decode(block)
    return msgspec.json.encode({name: value for name, value in members.items() if name not in _ONLY_IN_BLOCKS})


@dataclass(frozen=True, slots=True)
class Known:
    """Nothing new: subscribers have seen this block, and it is canonical to them."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The block with this ``hash`` has to be known first."""

    hash: str


@dataclass(frozen=True, slots=True)
class Extended:
    """To be shown, oldest first. ``removed`` were shown before and are canonical no more, newest first."""

    added: tuple[Header, ...]
    removed: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class TooFar:
    """More than the bound lies between: what was missed cannot be filled in."""

    missed: int


Step = Known | Fetch | Extended | TooFar


class HeadChain:
    """The last blocks that were shown, at most ``bound``: also the most that are filled in, and the deepest reorg."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._shown: deque[Header] = deque(maxlen=bound)  # the oldest goes when a new one comes

    def __repr__(self) -> str:
        return f"<HeadChain of {len(self._shown)} up to {self.tip.number if self.tip else None}>"

    @property
    def tip(self) -> Header | None:
        """What was shown last."""
        return self._shown[-1] if self._shown else None

    def restart(self, header: Header) -> None:
        """Begin anew behind ``header``, which itself is not shown."""
        self._shown.clear()
        self._shown.append(header)

    def attach(self, branch: list[Header]) -> Step:
        """What to do with ``branch``: an endpoint's head last, before it as many of its ancestors as are known.

        `Extended` has taken the branch in; all other steps change nothing. A head below all that was shown is that
        of an endpoint that lags: nothing new.
        """
        head, oldest = branch[-1], branch[0]
        if self.tip is None:
            self._shown.append(head)
            return Extended((head,))
        if head.number < self._shown[0].number or any(header.hash == head.hash for header in self._shown):
            return Known()
        if any(header.hash == oldest.parent for header in self._shown):
            return self._extend(branch)
        if oldest.number <= self._shown[0].number:
            return self._replace(branch)
        if len(branch) >= self._bound or head.number - self.tip.number > self._bound:
            return TooFar(max(head.number - self.tip.number - 1, 0))
        return Fetch(oldest.parent)

    def _extend(self, branch: list[Header]) -> Extended:
        removed: list[Header] = []
        while self._shown[-1].hash != branch[0].parent:
            removed.append(self._shown.pop())
        self._shown.extend(branch)
        return Extended(tuple(branch), tuple(removed))

    def _replace(self, branch: list[Header]) -> Step:
        """A reorg below the first block that is known here: all that was shown is gone, if that is all we know of."""
        if len(self._shown) == self._bound:
            return TooFar(len(branch))
        removed = tuple(reversed(self._shown))
        self._shown.clear()
        self._shown.extend(branch)
        return Extended(tuple(branch), removed)
