"""Carries out what the core says: on this host's log, one change after another, and on its links.

Every input to the core goes through `tell`, which first feeds it what the log has got since.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from appliance.domain.errors import LogError, PrunedError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Receipt, Record, Replaced, Verdict
from appliance.replication import commands
from appliance.replication.bell import Bell
from appliance.replication.connection import Connection
from appliance.replication.core import Core
from appliance.replication.latency import Latency
from appliance.replication.membership import Membership, Restored
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.notices import log_notice
from appliance.replication.ports import ReplicatedLog
from appliance.replication.uncommitted import Uncommitted
from appliance.telemetry.logging import get_logger

log = get_logger("replication")

FEED_ENTRIES: Final = 128
FEED_BYTES: Final = 2**20
"""At a time; then other tasks get their turn."""

TICK_S: Final = 0.05
RETRY_S: Final = 1.0
"""After the disk refused a change."""

MAX_CHANGES: Final = 4096
"""Changes that wait, more than the windows of a few links; beyond it what peers say of payloads' states is let go."""

Change = (
    commands.Store
    | commands.Replace
    | commands.Close
    | commands.Requeue
    | commands.SaveCursor
    | commands.SetRecovered
    | commands.FollowState
    | commands.Renew
)
"""Carried out one after another, in the order in which the core asked, each answered before the next begins."""

Asked = TypeVar("Asked", commands.Replace, commands.Close, commands.Requeue, commands.SetRecovered)


class SetBackError(LogError):
    """This host's log is older than what a peer has seen of it; it goes on as another one."""


class Runner:
    """One host's core, its log, and its connections."""

    def __init__(
        self, core: Core, membership: Membership, flashlog: ReplicatedLog, metrics: ReplicationMetrics
    ) -> None:
        self.core = core
        self.membership = membership
        self.flashlog = flashlog
        self.metrics = metrics
        self.latency = Latency()
        self._uncommitted = Uncommitted()
        self.connections: dict[commands.Link, Connection] = {}
        # Bounded by the links' windows, by one change for each payload, and for states by MAX_CHANGES.
        self._changes: deque[Change] = deque()
        self._is_changing = False
        self._answers: deque[Callable[[], None]] = deque()  # of memory, to the commands of one turn
        self._bell = Bell()
        self._nursery: trio.Nursery | None = None
        self._heard: commands.FollowState | None = None

    @classmethod
    async def create(
        cls,
        membership: Membership,
        peers: tuple[str, ...],
        flashlog: ReplicatedLog,
        metrics: ReplicationMetrics,
    ) -> "Runner":
        """With what the log knows at this start; ``peers`` are those whose cursors it may have."""
        cursors = {peer: await flashlog.cursor_of(peer) for peer in peers}
        restored = Restored(
            appended=await flashlog.given_through(),
            committed=flashlog.committed,
            pruned=await flashlog.pruned_through(),
            ends=tuple(await flashlog.closed()),
            known_logs={peer: cursor.log_id for peer, cursor in cursors.items() if cursor is not None},
            recovering=await flashlog.recovering(),
        )
        now = trio.current_time()
        return cls(Core(membership, restored, now, time.time() - now), membership, flashlog, metrics)

    def __repr__(self) -> str:
        return f"<Runner {self.core!r}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            # Also while the log is read, which may take seconds after an outage.
            nursery.start_soon(self._live_for_ever)
            await self.tell(lambda now: None)
            nursery.start_soon(self._change_for_ever)
            nursery.start_soon(self._tick_for_ever)
            task_status.started()
            while True:
                await self.flashlog.wait_appended_past(self.core.seen)
                before = self.core.seen
                await self.tell(lambda now: None)
                if self.core.seen == before:  # no room to count more, or what was there lost its place
                    await trio.sleep(TICK_S)

    # --- inputs ---

    async def tell(self, what: Callable[[float], None]) -> None:
        """Give the core an input, after what is in the log, and carry out what follows."""
        self.core.set_clock(time.time() - trio.current_time())
        await self._feed()
        what(trio.current_time())
        self._carry_out()

    async def _feed(self) -> None:
        """In the order of the log. Reading may wait for the disk: then others may have fed the same meanwhile."""
        while self.core.seen < self.flashlog.appended:
            after, through = self.core.seen, self.flashlog.appended
            records = self.flashlog.recent_records(after, FEED_ENTRIES)
            if records is None:
                records = await self._records(after)
            if after == self.core.seen:
                last = records[-1].position if records else through
                self.core.feed(records, last, trio.current_time())
            if self.core.seen == after:
                return
            if self.core.seen < self.flashlog.appended:
                await trio.lowlevel.checkpoint()

    async def _records(self, after: int) -> list[Record]:
        """What comes after a position, or after all that retention has removed meanwhile."""
        try:
            return await self.flashlog.records(after, limit=FEED_ENTRIES, max_bytes=FEED_BYTES)
        except PrunedError:
            self.core.pruned(await self.flashlog.pruned_through())
            return []

    def _carry_out(self) -> None:
        while taken := self.core.take_commands():
            for command in taken:
                self._do(command)
            while self._answers:
                self._answers.popleft()()

    def _do(self, command: commands.Command) -> None:
        match command:
            case commands.Send(link, message) if link in self.connections:
                self.connections[link].send(message)
            case commands.End(link, reason, failed) if link in self.connections:
                self.connections[link].end(reason, failed=failed)
            case commands.Send() | commands.End():
                pass  # it is gone already
            case commands.Read():
                self._answers.append(partial(self._read, command))
            case commands.CommitThrough():
                self._commit(command)
            case commands.ShowThrough():
                self._show(command)
            case commands.Notice():
                self._notice(command)
            case commands.Store() if self._is_held(command):
                pass
            case commands.FollowState() if len(self._changes) >= MAX_CHANGES:
                pass
            case _:
                self._changes.append(command)
                self._bell.ring()

    def _commit(self, command: commands.CommitThrough) -> None:
        self.flashlog.commit_through(command.position)
        self.metrics.committed.set(command.position)
        self.latency.add(command.waited_s)
        for waited_s in command.waited_s:
            self.metrics.commit_seconds.observe(waited_s)

    def _show(self, command: commands.ShowThrough) -> None:
        count = max(0, command.position - max(self.flashlog.head, self.flashlog.committed))
        if self._uncommitted.shown(command.position, count, trio.current_time()):
            log.error("flashblocks are shown without a majority", position=command.position, on_timeout="publish")
        self.metrics.published_uncommitted.inc(count)
        self.flashlog.show_through(command.position)

    def _notice(self, notice: commands.Notice) -> None:
        log_notice(notice)
        if notice.name == "closed":
            self.metrics.closed.inc()
        if notice.name == "pruned":
            self.metrics.missed.labels(str(notice.fields["host"])).inc(float(str(notice.fields["positions"])))

    # --- reading for followers ---

    def _read(self, command: commands.Read) -> None:
        records = self.flashlog.recent_records(command.after, command.limit)
        if records is not None:
            self.core.read(command, _within(records, command), trio.current_time())
        elif self._nursery is not None:
            self._nursery.start_soon(self._read_from_disk, command)

    async def _read_from_disk(self, command: commands.Read) -> None:
        try:
            records = await self.flashlog.records(command.after, limit=command.limit, max_bytes=command.max_bytes)
        except PrunedError:
            self._cut(command.link, "retention has passed a follower that is slow")
        except LogError as error:
            self._cut(command.link, str(error))
        else:
            await self.tell(lambda now: self.core.read(command, _within(records, command), now))

    def _cut(self, link: commands.Link, reason: str) -> None:
        if link in self.connections:
            self.connections[link].end(reason, failed=True)

    # --- changes of the log ---

    async def _change_for_ever(self) -> None:
        while True:
            ring = self._bell.next_ring()
            while self._changes:
                self._is_changing = True
                with trio.CancelScope(shield=True):  # the next run would not know of what is half done
                    await self._change(self._changes.popleft())
                await trio.lowlevel.checkpoint_if_cancelled()
            self._is_changing = False
            await ring.wait()

    def _is_held(self, store: commands.Store) -> bool:
        """Whether memory has it all, and nothing before it may change that: then the votes in it are heard at once."""
        if self._changes or self._is_changing:
            return False
        receipts = self.flashlog.held_from(store.peer, store.entries, store.cursor)
        if receipts is not None:
            self._answers.append(partial(self._stored, store, receipts))
        return receipts is not None

    def _stored(self, store: commands.Store, receipts: Sequence[Receipt]) -> None:
        self.core.stored(store, receipts, trio.current_time())

    async def _change(self, command: Change) -> None:
        flashlog, core = self.flashlog, self.core
        match command:
            case commands.Store():
                await self._store(command)
            case commands.Replace(payload_id, index):
                await self._attempt(command, self._removing(flashlog.replace(payload_id, index)), core.removed)
            case commands.Close(payload_id, at):
                await self._attempt(command, self._removing(flashlog.close_payload(payload_id, at)), core.closed)
            case commands.Requeue(payload_id, index):
                await self._attempt(command, flashlog.requeue(payload_id, index), core.requeued)
            case commands.SetRecovered():
                await self._attempt(command, flashlog.set_recovering(recovering=False), core.recovered)
            case commands.SaveCursor(peer, cursor):
                flashlog.set_cursor(peer, cursor)
            case commands.FollowState():
                await self._follow_state(command)
            case commands.Renew():
                await flashlog.renew()
                raise SetBackError("this log is older than what a peer has seen of it: it goes on as a new one")

    async def _follow_state(self, command: commands.FollowState) -> None:
        self._heard = command
        await self._try_to(self.flashlog.follow_state(command.payload_id, command.state, command.block_hash))
        self._heard = None

    def is_hearsay(self, payload_id: PayloadId, state: PayloadState) -> bool:
        """Whether a peer is the source of this change: that is not told on, or hosts that differ would never end."""
        heard = self._heard
        return heard is not None and (heard.payload_id, heard.state) == (payload_id, state)

    async def _try_to(self, work: Awaitable[object]) -> None:
        try:
            await work
        except LogError as error:
            log.error("replication cannot write", reason=str(error))

    async def _attempt(self, command: Asked, work: Awaitable[object], answer: Callable[[Asked, float], None]) -> None:
        try:
            await work
        except LogError as error:
            log.error("replication cannot change the log", command=repr(command), reason=str(error))
            await trio.sleep(RETRY_S)
            await self.tell(lambda now: self.core.change_failed(command, now))
        else:
            await self.tell(lambda now: answer(command, now))

    async def _removing(self, work: Awaitable[Replaced]) -> None:
        replaced = await work
        self.metrics.replaced.inc(replaced.removed)
        if replaced.shown:
            log.error("flashblocks that were shown lost their place", entries=replaced.shown)

    async def _store(self, store: commands.Store) -> None:
        try:
            receipts = self.flashlog.held_from(store.peer, store.entries, store.cursor)
            if receipts is None:
                receipts = await self.flashlog.append_from(store.peer, store.entries, store.cursor, store.late)
            else:
                await trio.lowlevel.checkpoint()
        except LogError as error:
            reason = str(error)
            await self.tell(lambda now: self.core.store_failed(store, reason, now))
            return
        self._count(store.peer, receipts)
        await self.tell(lambda now: self.core.stored(store, receipts, now))

    def _count(self, peer: str, receipts: Sequence[Receipt]) -> None:
        verdicts = [receipt.verdict for receipt in receipts]
        self.metrics.received.labels(peer).inc(verdicts.count(Verdict.NEW))
        refused = verdicts.count(Verdict.REFUSED)
        if refused:
            self.metrics.refused.labels(peer).inc(refused)
            log.error("second bodies refused, kept as evidence", peer=peer, entries=refused)

    # --- time ---

    async def _live_for_ever(self) -> None:
        """A task of its own: a tick may wait for the disk, which is no standstill of the loop."""
        while True:
            await trio.sleep(TICK_S)
            self.core.alive(trio.current_time())
            self._carry_out()

    async def _tick_for_ever(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            self.core.pruned(self.flashlog.removed_through)
            await self.tell(self.core.tick)
            self.metrics.held_entries.set(self.core.open)
            self.metrics.held_seconds.set(self.held_s())
            for connection in self.connections.values():
                connection.measure()
            if self._uncommitted.ends(self.flashlog.committed, trio.current_time()):
                log.info("nothing is shown without a majority any more", entries=self._uncommitted.count)

    @property
    def shown_uncommitted(self) -> int:
        """Entries that are not committed and shown all the same (`on_timeout = "publish"`)."""
        return min(self.core.open, self.flashlog.head - self.flashlog.committed)

    def held_s(self) -> float:
        """How long the oldest entry that is not committed has been waiting; 0 when there is none."""
        since = self.core.oldest_open_since
        return 0.0 if since is None else trio.current_time() - since


def _within(records: Sequence[Record], asked: commands.Read) -> list[Record]:
    """The first ones, up to a position and so many bytes of bodies, but one at least."""
    taken: list[Record] = []
    size = 0
    for record in records:
        size += len(record.body)
        if record.position > asked.through or (taken and size > asked.max_bytes):
            break
        taken.append(record)
    return taken
