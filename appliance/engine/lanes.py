"""What goes to one builder in the background: a bounded queue in which the newest of a kind replaces others.

Each builder has three lanes. The chain's lane (newPayload, forkchoiceUpdated) keeps order, because a builder
must know a parent before it can build on it; the pool's lane (transactions) must not make the chain's wait;
and what lasts (miner settings) is sent until it arrives, which must not make transactions wait. One call at
a time runs on each.

    full             the oldest parcel that nobody waits for, or that is expendable, and that need not last is
                     dropped; a builder that far behind catches up by its own sync
    call fails       the parcel is gone, but a lasting one is put back, behind those of other kinds, unless a
                     newer one of its kind waits
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.engine.events import CallId

CHAIN_PARCELS: Final = 16
POOL_PARCELS: Final = 256
LASTING_PARCELS: Final = 16
LANE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """One request to a builder.

    ``make_body`` makes it when its turn comes; ``size`` in bytes is about what it will be. ``call_id`` when
    the multiplexer waits for the outcome; such a call is dropped only when it is ``expendable``. It takes the
    place of waiting parcels of the kinds ``replaces``.
    """

    make_body: Callable[[], bytes]
    size: int
    call_id: CallId | None = None
    kind: str | None = None
    replaces: frozenset[str] = frozenset()
    lasting: bool = False
    expendable: bool = False


class Lane:
    """The queue, without I/O."""

    def __init__(self, max_parcels: int, max_bytes: int = LANE_BYTES) -> None:
        self._max_parcels = max_parcels
        self._max_bytes = max_bytes
        self._parcels: deque[Parcel] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._parcels)

    def put(self, parcel: Parcel) -> list[CallId]:
        """Queue a parcel; answers the calls that it has displaced, whose outcome will never come."""
        replaced = [waiting for waiting in self._parcels if waiting.kind in parcel.replaces]
        for waiting in replaced:
            self._remove(waiting)
        self._append(parcel)
        while self._is_overfull():
            replaced.append(self._drop_oldest())
        return [waiting.call_id for waiting in replaced if waiting.call_id is not None]

    def take(self) -> Parcel | None:
        """The oldest parcel; None when the lane is empty."""
        if not self._parcels:
            return None
        parcel = self._parcels.popleft()
        self._bytes -= parcel.size
        return parcel

    def put_back(self, parcel: Parcel) -> bool:
        """Queue a lasting parcel again whose call failed; False when it need not be sent again."""
        if not parcel.lasting or any(parcel.kind in waiting.replaces for waiting in self._parcels):
            return False
        self._append(parcel)
        return True

    def _append(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        self._bytes += parcel.size

    def _remove(self, parcel: Parcel) -> None:
        self._parcels.remove(parcel)
        self._bytes -= parcel.size

    def _is_overfull(self) -> bool:
        if len(self._parcels) > self._max_parcels or self._bytes > self._max_bytes:
            return any(_is_droppable(parcel) for parcel in self._parcels)
        return False

    def _drop_oldest(self) -> Parcel:
        oldest = next(parcel for parcel in self._parcels if _is_droppable(parcel))
        self._remove(oldest)
        self.dropped += 1
        return oldest


def _is_droppable(parcel: Parcel) -> bool:
    # Parcels that stay are few: at most one per kind, and kinds are method names.
    return (parcel.call_id is None or parcel.expendable) and not parcel.lasting
