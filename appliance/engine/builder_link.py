"""The shell around one builder's lanes: three tasks that send what is queued, one call at a time each.

Lasting requests (miner settings) are remembered, the newest of each kind, and sent again when the builder comes back.
"""

from collections.abc import Callable
from typing import Final

import trio

from appliance.domain.errors import RemoteError, UnavailableError
from appliance.engine.events import Answered, Failed
from appliance.engine.lanes import CHAIN_PARCELS, LASTING_PARCELS, POOL_PARCELS, Lane, Parcel
from appliance.engine.metrics import EngineMetrics
from appliance.engine.outcomes import Outcome
from appliance.engine.reunion import Reunion
from appliance.engine.upstream import Upstream
from appliance.net.backoff import Backoff
from appliance.net.http import HttpResponse

_PASSING: Final = {401, 408, 429}
"""Refusals that pass: clocks apart or a secret being changed, a timeout, too many requests."""


class BuilderLink:
    """Background requests to one builder. ``report`` gets the outcome of calls that someone waits for."""

    def __init__(self, upstream: Upstream, report: Callable[[Outcome], None], metrics: EngineMetrics) -> None:
        self.upstream = upstream
        self._report = report
        self._failed = metrics.copies_failed.labels(upstream.name)
        self._dropped = metrics.copies_dropped.labels(upstream.name)
        self._replayed = metrics.settings_replayed.labels(upstream.name)
        self._reunion = Reunion()
        # At most one for each kind, and kinds are method names: bounded by MIRRORED_METHODS.
        self._settings: dict[str, Parcel] = {}
        self._chain = _Queue(Lane(CHAIN_PARCELS))
        self._pool = _Queue(Lane(POOL_PARCELS))
        self._lasting = _Queue(Lane(LASTING_PARCELS))
        self._queues = (self._chain, self._pool, self._lasting)

    async def run(self) -> None:
        """Send for ever."""
        async with trio.open_nursery() as nursery:
            for queue in self._queues:
                nursery.start_soon(self._work, queue)

    def put(self, parcel: Parcel, *, in_order: bool) -> list[Failed]:
        """Queue a request; answers the outcomes of waiting calls that will never be made because of it."""
        if parcel.lasting and parcel.kind is not None:
            self._settings.pop(parcel.kind, None)  # the order in which they were set is kept
            self._settings[parcel.kind] = parcel
        queue = self._chain if in_order else self._lasting if parcel.lasting else self._pool
        dropped_before = queue.lane.dropped
        displaced = queue.lane.put(parcel)
        self._dropped.inc(queue.lane.dropped - dropped_before)
        queue.waiting.unpark()
        return [Failed(call_id, f"{self.upstream.name}: a newer order took its place") for call_id in displaced]

    def probed(self, head: int | None) -> None:
        """The builder said its head's number to a health probe; None when it did not answer."""
        if head is None:
            self._reunion.missed()
        elif self._reunion.head_seen(head):
            self._replay()

    def statistics(self) -> dict[str, object]:
        """What waits, and what was dropped."""
        return {
            **self.upstream.statistics(),
            "waiting": sum(len(queue.lane) for queue in self._queues),
            "settings": sorted(self._settings),
            "dropped": sum(queue.lane.dropped for queue in self._queues),
        }

    async def _work(self, queue: "_Queue") -> None:
        backoff = Backoff()
        while True:
            parcel = queue.lane.take()
            if parcel is None:
                await queue.waiting.park()
            elif await self._deliver(parcel) or not queue.lane.put_back(parcel):
                backoff.reset()
            else:
                await trio.sleep(backoff.next())

    async def _deliver(self, parcel: Parcel) -> bool:
        try:
            body = parcel.make_body()
        except RemoteError:
            # Another builder's block, which was chosen but cannot be read here: a copy less, and nothing to repeat.
            self._failed.inc()
            return True
        try:
            response = await self.upstream.post(body)
        except UnavailableError as error:
            self._failed.inc()
            self._reunion.missed()
            self._tell(parcel, error)
            return False
        if self._reunion.answered():
            self._replay(delivered=parcel)
        self._tell(parcel, response)
        return _is_settled(response.status)

    def _replay(self, delivered: Parcel | None = None) -> None:
        for parcel in [each for each in self._settings.values() if each is not delivered]:
            self._lasting.lane.put(parcel)
            self._replayed.inc()
        self._lasting.waiting.unpark()

    def _tell(self, parcel: Parcel, result: HttpResponse | UnavailableError) -> None:
        if parcel.call_id is None:
            return
        outcome: Outcome
        if isinstance(result, UnavailableError):
            outcome = Failed(parcel.call_id, str(result))
        else:
            outcome = Answered(parcel.call_id, self.upstream.origin, result.status, result.body)
        self._report(outcome)


def _is_settled(status: int) -> bool:
    """Whether sending the same again would change nothing: a method that a builder does not have stays unknown."""
    return status < 500 and status not in _PASSING


class _Queue:
    """A lane and where its worker sleeps while it is empty."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.waiting = trio.lowlevel.ParkingLot()
