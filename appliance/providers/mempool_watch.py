"""Transactions that were sent through a group, until they are mined, replaced, or dropped. Pure.

A drop is a transaction that an endpoint accepted, does not know any more, and that never was mined
(fuel-block-committer, pull request 217). Not a drop: one whose nonce another transaction took, because senders raise
their fees that way all the time. One "unknown" may be a cluster's node that has not heard of it yet: it takes two
looks in a row.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

# One batch poster has a handful in flight. Over the bound the oldest is watched no more, and counted as such.
MOST_WATCHED: Final = 1024
LONGEST_S: Final = 3 * 3600.0
"""go-ethereum's pool gives a queued transaction three hours."""
LOOKS_FOR_A_DROP: Final = 2


class Sighting(Enum):
    """What one look at the endpoint found."""

    PENDING = auto()
    MINED = auto()
    REPLACED = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class Watched:
    """A transaction that ``endpoint`` accepted. Sender and nonce are known once it was seen pending."""

    endpoint: str
    hash: str
    sent_at: float
    sender: str = ""
    nonce: int | None = None
    unknown_in_a_row: int = 0


class MempoolWatch:
    """The transactions of one group that are on their way."""

    def __init__(self, most: int = MOST_WATCHED) -> None:
        self.mined = self.replaced = self.dropped = self.given_up = 0
        self._most = most
        self._watched: OrderedDict[tuple[str, str], Watched] = OrderedDict()

    def __len__(self) -> int:
        return len(self._watched)

    def __repr__(self) -> str:
        return f"<MempoolWatch of {len(self)}, {self.dropped} dropped>"

    def accepted(self, endpoint: str, transaction_hash: str, now: float) -> None:
        """``endpoint`` answered `eth_sendRawTransaction` with this hash."""
        key = (endpoint, transaction_hash)
        if key in self._watched:
            return
        self._watched[key] = Watched(endpoint, transaction_hash, now)
        while len(self._watched) > self._most:
            self._watched.popitem(last=False)
            self.given_up += 1

    def newcomers(self) -> list[Watched]:
        """Those of whom sender and nonce are not known yet: without them a replacement looks like a drop."""
        return [each for each in self._watched.values() if each.nonce is None]

    def due(self, now: float, limit: int) -> list[Watched]:
        """Whom to look at now: at most ``limit``, those first that were looked at longest ago."""
        for key in [key for key, each in self._watched.items() if now - each.sent_at > LONGEST_S]:
            del self._watched[key]
            self.given_up += 1
        chosen = list(self._watched)[:limit]
        for key in chosen:
            self._watched.move_to_end(key)
        return [self._watched[key] for key in chosen]

    def looked(self, watched: Watched, sighting: Sighting) -> bool:
        """What a look found; true when this makes it a drop."""
        if (watched.endpoint, watched.hash) not in self._watched:
            return False
        match sighting:
            case Sighting.PENDING:
                watched.unknown_in_a_row = 0
            case Sighting.MINED:
                self.mined += 1
                self._forget(watched)
            case Sighting.REPLACED:
                self.replaced += 1
                self._forget(watched)
            case Sighting.UNKNOWN:
                return self._unknown(watched)
        return False

    def _unknown(self, watched: Watched) -> bool:
        watched.unknown_in_a_row += 1
        if watched.unknown_in_a_row < LOOKS_FOR_A_DROP:
            return False
        self.dropped += 1
        self._forget(watched)
        return True

    def _forget(self, watched: Watched) -> None:
        del self._watched[watched.endpoint, watched.hash]

    def statistics(self) -> dict[str, object]:
        """On their way now, and what became of the others."""
        return {
            "watched": len(self),
            "seen_pending": len(self) - len(self.newcomers()),
            "mined": self.mined,
            "replaced": self.replaced,
            "dropped": self.dropped,
            "given_up": self.given_up,
        }
