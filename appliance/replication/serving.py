"""Serving this host's log to one follower: in its order, as far as the window lets it go."""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from appliance.domain.errors import LogError, PrunedError, RemoteError, UnavailableError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Record
from appliance.net.duplex import Duplex
from appliance.net.websocket_client import raise_only
from appliance.replication.bell import Bell
from appliance.replication.host import VotingHost
from appliance.replication.metrics import LEARNERS
from appliance.replication.source_link import Refused, SourceLink
from appliance.telemetry.logging import get_logger
from appliance.wire import replication as wire
from appliance.wire.replication import Ack, Closed, Hello, Refusal, Settled

log = get_logger("replication")

BATCH_ENTRIES: Final = 128
BATCH_BYTES: Final = 512 * 2**10
"""One message: decoding it holds the loop of the other side for half a millisecond."""

HELLO_TIMEOUT_S: Final = 5.0
TOLD_STATES: Final = 64
MAX_STATES: Final = 256
"""Payload states that wait for a follower; the oldest go. They are for information only."""


class Serving:
    """One connection of a follower."""

    def __init__(self, host: VotingHost, duplex: Duplex) -> None:
        self.link = SourceLink(host.identity)
        self.address = duplex.name
        self._host = host
        self._duplex = duplex
        self._scope = trio.CancelScope()
        self._bell = Bell()
        self._states: deque[tuple[int, Settled]] = deque(maxlen=MAX_STATES)
        self._closings: deque[Closed] = deque()  # bounded by the tombstones that the log keeps, and those since
        self._reason = "the follower has gone"

    def __repr__(self) -> str:
        return f"<Serving {self.link!r}>"

    @property
    def label(self) -> str:
        """The follower's name where it is configured, else `LEARNERS`."""
        return self.link.peer if self.link.peer in self._host.identity.voters else LEARNERS

    def end(self) -> None:
        """End the connection; a follower comes back."""
        self._scope.cancel()

    def tell_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None) -> None:
        """What became of a payload; told after the entries that are in the log now."""
        self._states.append((self._host.flashlog.appended, Settled(payload_id, state, block_hash)))
        self._bell.ring()

    def tell_closed(self, payload_id: PayloadId, at: int) -> None:
        """A payload ends."""
        self._closings.append(Closed(payload_id, at))
        self._bell.ring()

    async def run(self, replace: Callable[["Serving"], None]) -> None:
        """Serve until the connection ends. ``replace`` is told who it is, to end an older one of the same follower."""
        with self._scope:
            try:
                await self._welcome()
                replace(self)
                await self._serve()
            except Refused as error:
                log.warning("a follower is refused", peer=self.link.peer, address=self.address, reason=str(error))
                await self._duplex.send(wire.encode(Refusal(str(error))))
            except (UnavailableError, RemoteError, LogError) as error:
                log.info("a follower has gone", peer=self.link.peer, reason=str(error))

    async def _welcome(self) -> None:
        hello = await self._hello()
        host = self._host
        if hello.cursor_log_id not in ("", host.identity.log_id) and hello.host_id in host.identity.voters:
            await host.begin_recovery(hello.host_id)
        known = await host.flashlog.cursor_of(hello.host_id)
        pruned = await host.flashlog.pruned_through()
        welcome, passed = self.link.hello(
            hello,
            committed=host.votes.committed,
            appended=host.flashlog.appended,
            pruned=pruned,
            recovering=host.recovery.recovering,
            known_log_id=known.log_id if known else None,
        )
        await self._duplex.send(wire.encode(welcome))
        if passed is not None:
            await self._duplex.send(wire.encode(passed))
        log.info("serving a follower", peer=self.link.peer, address=self.address, after=self.link.sent)

    async def _hello(self) -> Hello:
        with trio.move_on_after(HELLO_TIMEOUT_S):
            message = wire.decode(await self._duplex.receive())
            if isinstance(message, Hello):
                return message
            raise Refused("expected a hello")
        raise Refused("no hello in time")

    async def _serve(self) -> None:
        host = self._host
        for closed in await host.flashlog.closed():
            self.tell_closed(*closed)
        for settled in await host.flashlog.settled(TOLD_STATES):
            self.tell_state(*settled)
        host.links.add(self)
        host.bells.add(self._bell)
        host.on_closed.add(self.tell_closed)
        followers = host.metrics.followers.labels(self.label)
        followers.inc()
        try:
            with host.flashlog.watch_states(self.tell_state):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_for_ever)
                    await self._receive_for_ever()
        except BaseExceptionGroup as group:
            raise_only(_first_of_both(group))
        finally:
            followers.dec()
            host.on_closed.discard(self.tell_closed)
            host.bells.discard(self._bell)
            host.links.discard(self)

    async def _receive_for_ever(self) -> None:
        acked, lag = self._host.metrics.acked.labels(self.label), self._host.metrics.follower_lag.labels(self.label)
        refused = self._host.metrics.refused_by.labels(self.label)
        while True:
            message = wire.decode(await self._duplex.receive())
            if not isinstance(message, Ack):
                raise Refused(f"a {type(message).__name__}, which a follower does not say")
            held = self.link.ack(message)
            acked.inc(len(held))
            refused.inc(len(message.refused))
            lag.set(self.behind)
            self._bell.ring()
            if self.link.votes:
                await self._host.voted(self.link.peer, held)

    @property
    def behind(self) -> int:
        """Positions of this log that the follower has not acknowledged."""
        return max(0, self._host.flashlog.appended - self.link.acked)

    async def _send_for_ever(self) -> None:
        while True:
            ring = self._bell.next_ring()
            if not await self._send_what_there_is():
                await ring.wait()

    async def _send_what_there_is(self) -> bool:
        """Send one message of each kind that is due; False when there was none."""
        sent = await self._send_entries()
        committed = self.link.committed(self._host.votes.committed)
        if committed is not None:
            await self._duplex.send(wire.encode(committed))
        return await self._send_news() or committed is not None or sent

    async def _send_entries(self) -> bool:
        if not self.link.has_room or self.link.sent >= self._host.fed:
            return False
        records = await self._next_records()
        if not records:
            return False
        await self._duplex.send(wire.encode(self.link.send(records, self._host.votes.committed)))
        return True

    async def _next_records(self) -> list[Record]:
        flashlog, after = self._host.flashlog, self.link.sent
        records = flashlog.recent_records(after, BATCH_ENTRIES)
        if records is None:
            try:
                records = await flashlog.records(after, limit=BATCH_ENTRIES, max_bytes=BATCH_BYTES)
            except PrunedError as error:
                raise LogError(f"retention has passed a follower that is slow: {error}") from error
        return _within(records, BATCH_BYTES, self._host.fed)

    async def _send_news(self) -> bool:
        sent = False
        while self._closings:
            await self._duplex.send(wire.encode(self._closings.popleft()))
            sent = True
        while self._states and self._states[0][0] <= self.link.sent:
            await self._duplex.send(wire.encode(self._states.popleft()[1]))
            sent = True
        return sent

    def statistics(self) -> dict[str, object]:
        """Where the follower stands in this log."""
        link = self.link
        return {
            "votes": link.votes,
            "sent": link.sent,
            "acked": link.acked,
            "behind": self.behind,
            "in_flight": link.in_flight,
            "refused": link.refused,
        }


def _first_of_both(group: BaseExceptionGroup[BaseException]) -> BaseExceptionGroup[BaseException]:
    """A connection that breaks may break for its sender and its receiver: one of the errors says it."""
    broken, others = group.split(UnavailableError)
    if broken is None or (others is not None and others.split(trio.Cancelled)[1] is not None):
        return group
    first: BaseException = broken
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return BaseExceptionGroup("", [first])


def _within(records: list[Record], max_bytes: int, through: int) -> list[Record]:
    """The first ones, up to a position and so many bytes of bodies, but one at least."""
    taken: list[Record] = []
    size = 0
    for record in records:
        size += len(record.body)
        if record.position > through or (taken and size > max_bytes):
            break
        taken.append(record)
    return taken
