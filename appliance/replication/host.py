"""This host among the voters: its log's entries into the votes, and what the votes decide back into the log."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from appliance.domain.errors import LogError
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Record
from appliance.replication.bell import Bell
from appliance.replication.latency import Latency
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.ports import ReplicatedLog
from appliance.replication.recovery import Recovery
from appliance.replication.source_link import Identity
from appliance.replication.votes import (
    AskAgain,
    Close,
    Command,
    CommitThrough,
    Place,
    Replace,
    ShowThrough,
    Votes,
)
from appliance.telemetry.logging import get_logger

log = get_logger("replication")

FEED_ENTRIES: Final = 256
FEED_BYTES: Final = 2**20
RETRY_S: Final = 1.0
"""After the disk refused to cut a branch off."""


@dataclass(frozen=True, slots=True)
class VotingRules:
    """``quorum`` of the voters decide; ``publish`` shows what has waited for ``timeout_s`` without it."""

    quorum: int
    timeout_s: float
    publish: bool


class Link(Protocol):
    """A connection with a peer, as far as this module ends it."""

    def end(self) -> None: ...


class FollowedLink(Link, Protocol):
    """One that follows a peer's log."""

    peer: str

    def rewound(self, payload_id: PayloadId, from_index: int) -> Cursor | None: ...


class VotingHost:
    """Owns the votes. ``bells`` ring when there is something new to tell followers."""

    def __init__(
        self,
        identity: Identity,
        rules: VotingRules,
        flashlog: ReplicatedLog,
        metrics: ReplicationMetrics,
        *,
        recovering: bool,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.identity = identity
        self.rules = rules
        self.flashlog = flashlog
        self.metrics = metrics
        self.bells: set[Bell] = set()
        self.followed: set[FollowedLink] = set()
        self.links: set[Link] = set()
        self.on_closed: set[Callable[[PayloadId, int], None]] = set()
        self.recovery = Recovery(voters=len(identity.voters), quorum=rules.quorum, recovering=recovering)
        self.latency = Latency()
        self.contradictions = 0
        self._clock = clock
        self._branch_work: dict[PayloadId, Replace | Close] = {}
        self._branch_bell = Bell()
        self._removals = 0
        self.votes = self._new_votes()
        self._fed = self.votes.committed

    def __repr__(self) -> str:
        return f"<VotingHost {self.identity.host_id}: {self.votes!r}>"

    def _new_votes(self) -> Votes:
        has_vote = not self.identity.follow_only and not self.recovery.recovering
        return Votes(
            self.identity.host_id if has_vote else None,
            self.identity.voters,
            self.rules.quorum,
            committed=self.flashlog.committed,
            publish_after_s=self.rules.timeout_s if self.rules.publish else None,
        )

    @property
    def fed(self) -> int:
        """The last position of this log that the votes know: what followers may be sent."""
        return self._fed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Count what is on disk for ever."""
        await self.feed()
        self.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mend_branches)
            nursery.start_soon(self._tick)
            task_status.started()
            while True:
                await self.flashlog.wait_appended_past(self._fed)
                before = self._fed
                await self.feed()
                self.settle()
                self.ring()
                if before == self._fed < self.flashlog.appended:  # no room to count more
                    await trio.sleep(self.rules.timeout_s / 10)

    def ring(self) -> None:
        """There is something new for followers."""
        for bell in self.bells:
            bell.ring()

    async def feed(self) -> None:
        """Give the votes what is on disk here, in the order of the log, as far as they take it.

        Votes of others for what they do not know yet are lost, so this comes before each of those. Reading may wait for
        the disk: then others may have fed the same meanwhile, or a branch may have been cut off, which is why both are
        looked at again.
        """
        while self._fed < self.flashlog.appended:
            through, removals = self.flashlog.appended, self._removals
            records = self.flashlog.recent_records(self._fed, FEED_ENTRIES)
            if records is None:
                records = await self.flashlog.records(self._fed, limit=FEED_ENTRIES, max_bytes=FEED_BYTES)
                if removals != self._removals:
                    continue
            if not records:
                self._fed = max(self._fed, through)  # what was there lost its place
            elif not self._feed(records):
                return

    def _feed(self, records: Iterable[Record]) -> bool:
        now = self._clock()
        for record in records:
            if record.position <= self._fed:
                continue
            if not self.votes.held(record.position, _place(record), now):
                return False
            self._fed = record.position
        return True

    async def voted(self, peer: str, places: Iterable[Place], decided: Iterable[Place] = ()) -> None:
        """A peer holds these; ``decided`` are committed, as a voter says."""
        await self.feed()
        self.votes.voted(peer, places)
        self.votes.decided(decided)
        self.settle()

    async def closed(self, payload_id: PayloadId, at: int) -> None:
        """A voter says that the payload ends. What is known already goes no further: all tell it to all."""
        known = await self.flashlog.closed_at(payload_id)
        if known is None or known > at:
            self.votes.closed(payload_id, at)
            self.settle()

    # --- what the votes decide ---

    def settle(self) -> None:
        """Do what the votes say now; what needs the disk is done by a task of its own."""
        for command in self.votes.settle(self._clock()):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case CommitThrough():
                self._commit(command)
            case ShowThrough():
                self._show(command)
            case Replace() | Close():
                if command.payload_id not in self._branch_work:
                    self._branch_work[command.payload_id] = command
                    self._branch_bell.ring()
            case AskAgain():
                log.warning("votes were not counted for want of room; the links begin again")
                self.end_links()

    def _commit(self, command: CommitThrough) -> None:
        self.flashlog.commit_through(command.position)
        self.metrics.committed.set(command.position)
        self.latency.add(command.waited_s)
        for waited_s in command.waited_s:
            self.metrics.commit_seconds.observe(waited_s)
        self.ring()

    def _show(self, command: ShowThrough) -> None:
        count = command.position - max(self.flashlog.head, self.flashlog.committed)
        log.error("shown without a majority", entries=count, position=command.position, on_timeout="publish")
        self.metrics.published_uncommitted.inc(max(0, count))
        self.flashlog.show_through(command.position)

    def end_links(self) -> None:
        """Let every connection begin again."""
        for link in list(self.links):
            link.end()

    # --- branches ---

    async def _mend_branches(self) -> None:
        while True:
            ring = self._branch_bell.next_ring()
            for payload_id, command in list(self._branch_work.items()):
                try:
                    await self._mend(command)
                except LogError as error:
                    log.error("a branch could not be cut off", payload_id=payload_id, reason=str(error))
                    await trio.sleep(RETRY_S)
                    self._branch_bell.ring()
                else:
                    del self._branch_work[payload_id]
            self.settle()
            if not self._branch_work:
                await ring.wait()
            await trio.lowlevel.checkpoint()

    async def _mend(self, command: Replace | Close) -> None:
        index = command.from_index if isinstance(command, Replace) else command.at
        if await self._is_committed(command.payload_id, index):
            self.contradictions += 1
            log.error("a voter contradicts what is committed here", payload_id=command.payload_id, index=index)
            self.votes.removed(command.payload_id, index)
            return
        if isinstance(command, Replace):
            await self._replace(command)
        else:
            await self._close(command)

    async def _is_committed(self, payload_id: PayloadId, index: int) -> bool:
        """Only with min_acks below a majority can it be that two hosts committed different things."""
        record = await self.flashlog.record(payload_id, index)
        return record is not None and record.position <= self.flashlog.committed

    async def _replace(self, command: Replace) -> None:
        cursors = {}
        for link in self.followed:
            cursor = link.rewound(command.payload_id, command.from_index)
            if cursor is not None:
                cursors[link.peer] = cursor
        replaced = await self.flashlog.replace(command.payload_id, command.from_index, cursors=cursors)
        self._removed(command.payload_id, command.from_index, replaced.removed, replaced.shown)

    async def _close(self, command: Close) -> None:
        replaced = await self.flashlog.close_payload(command.payload_id, command.at)
        self._removed(command.payload_id, command.at, replaced.removed, replaced.shown)
        self.metrics.closed.inc()
        for tell in list(self.on_closed):
            tell(command.payload_id, command.at)

    def _removed(self, payload_id: PayloadId, index: int, removed: int, shown: int) -> None:
        """All links begin again. Those that refused the winner have to fetch it, and followers were sent what is gone:
        they must not take the next `Committed`, which names a position beyond it, for a word about that.
        """
        self._removals += 1
        self.votes.removed(payload_id, index)
        self.end_links()
        self.metrics.replaced.inc(removed)
        log.error("a branch lost", payload_id=payload_id, from_index=index, removed=removed, had_been_shown=shown)

    # --- recovery ---

    async def begin_recovery(self, peer: str) -> None:
        """A peer knew this host with another log: what it voted for is lost, so it must not vote."""
        if self.identity.follow_only or not self.recovery.begin():
            return
        log.error("this host's log was lost: it has no vote until it has caught up", known_to=peer)
        await self.flashlog.set_recovering(recovering=True)
        self.votes = self._new_votes()
        self._fed = self.votes.committed
        self.end_links()

    async def caught_up(self, peer: str, position: int) -> None:
        """This host has a voter's log up to ``position``."""
        if peer in self.identity.voters and self.recovery.reached(peer, position):
            await self.flashlog.set_recovering(recovering=False)
            self.votes.may_vote(self.identity.host_id)
            log.info("caught up: this host votes again")
            self.settle()
            self.end_links()

    # --- time ---

    async def _tick(self) -> None:
        while True:
            await trio.sleep(min(0.1, self.rules.timeout_s / 4))
            self.settle()
            self.metrics.held_entries.set(self.votes.open)
            self.metrics.held_seconds.set(self.held_s())

    def held_s(self) -> float:
        """How long the oldest entry that is not committed has been waiting; 0 when there is none."""
        since = self.votes.oldest_open_since()
        return 0.0 if since is None else self._clock() - since

    @property
    def is_held(self) -> bool:
        """Whether something waits longer than it should."""
        return self.held_s() > self.rules.timeout_s


def _place(record: Record) -> Place:
    return Place(record.payload_id, record.index, record.prefix)
