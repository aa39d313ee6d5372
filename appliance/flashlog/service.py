"""The flashblock log as the other planes use it."""

import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import Located, Resume
from appliance.domain.replicas import Cursor, Receipt, Record, Replaced, Replica, Verdict
from appliance.flashlog import replica_jobs
from appliance.flashlog.commit_point import CommitPoint
from appliance.flashlog.files import OpenedLog, open_files
from appliance.flashlog.housekeeping import Housekeeping
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.readers import READERS, Readers
from appliance.flashlog.replica_jobs import BranchChange
from appliance.flashlog.retention import RetentionLimits
from appliance.flashlog.rows import Arrival, Refused
from appliance.flashlog.spans import PayloadRecord
from appliance.flashlog.state import LogState, OnState
from appliance.flashlog.store import Removed, StateSet, Store
from appliance.flashlog.tail import Tail, TailLimits
from appliance.flashlog.threads import OwnThread, OwnThreads, RunSync
from appliance.flashlog.writer import Writer

DEFAULT_RETENTION = RetentionLimits()
DEFAULT_TAIL = TailLimits()

RECORDS: Final = TailLimits(max_entries=1024, max_bytes=16 * 2**20)
"""What peers are sent from memory: they share their bodies with the tail."""

LOCAL_PAYLOADS: Final = 64
"""Payloads of which the branch that this process appended is remembered; older ones do not go on."""

T = TypeVar("T")


class FlashLog:
    """One host's flashblock log; made by `open_flashlog`. All methods are for the trio thread."""

    def __init__(
        self,
        opened: OpenedLog,
        state: LogState,
        writer: Writer,
        readers: Readers,
        housekeeping: Housekeeping,
        metrics: FlashlogMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.log_id = opened.log_id
        self._files = files = opened.files
        self._state = state
        self._writer = writer
        self._readers = readers
        self._housekeeping = housekeeping
        self._metrics = metrics
        self._clock = clock
        self._cursors: dict[str, Cursor] = {}  # one for each peer that was followed since the last transaction
        self._branches: OrderedDict[PayloadId, tuple[int, bytes]] = OrderedDict()  # the last index, its prefix
        metrics.file_bytes.set_function(lambda: sum(files.sizes().values()))

    def __repr__(self) -> str:
        return f"<FlashLog {self._files.database}: head {self.head}>"

    # --- writing ---

    async def append(self, flashblock: Flashblock, builder: str) -> Entry:
        """Append and return the entry once it is on disk; the same body again returns the entry that is held.

        Raises EquivocationError for another body under the same key (kept as evidence), OutOfOrderError for
        one that does not follow, LogError when the disk refuses; the next append tries again. Cancelled, the
        flashblock may or may not be in the log; appended again it is there once. EquivocationError also where another
        host's branch has taken the place of what was appended here before, or the payload was closed.
        """
        started = trio.current_time()
        arrival = Arrival(flashblock, builder, received_at=self._clock(), after=self._branch_before(flashblock))
        appended = await self._write(lambda store: store.append(arrival), len(flashblock.body))
        self._metrics.append_seconds.observe(trio.current_time() - started)
        self._remember_branch(appended.record)
        return appended.entry

    def _branch_before(self, flashblock: Flashblock) -> bytes | None:
        index, prefix = self._branches.get(flashblock.payload_id, (-1, b""))
        return prefix if flashblock.index == index + 1 > 0 else None

    def _remember_branch(self, record: Record) -> None:
        if record.index <= self._branches.get(record.payload_id, (-1, b""))[0]:
            return  # the same again
        self._branches[record.payload_id] = record.index, record.prefix
        while len(self._branches) > LOCAL_PAYLOADS:
            self._branches.popitem(last=False)

    async def _write(self, work: Callable[[Store], T], size: int = 0) -> T:
        """Submit a job; a replicated log's commit point and cursors are made durable along with it."""
        if self._state.commit_on_append:
            return await self._writer.submit(work, size)
        note = self.progress_note()

        def work_and_note(store: Store) -> T:
            note(store)
            return work(store)

        return await self._writer.submit(work_and_note, size)

    def progress_note(self) -> Callable[[Store], None]:
        """A job that makes durable what may lag behind: how far this log is committed, and others were followed."""
        committed, cursors = self._state.committed, self._cursors
        self._cursors = {}

        def note(store: Store) -> None:
            replica_jobs.note_committed(store, committed)
            for peer, cursor in cursors.items():
                replica_jobs.set_cursor(store, peer, cursor)

        return note

    async def set_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None = None) -> None:
        """Record what became of a payload; LogError where the log does not know it or it cannot go back."""
        now = self._clock()
        await self._write(lambda store: store.set_state(payload_id, state, block_hash, now))

    async def apply_retention(self) -> Removed:
        """Remove now what the limits say, as the background task does now and then."""
        return await self._housekeeping.apply_limits()

    # --- other hosts ---

    async def append_from(
        self, peer: str, replicas: Sequence[Replica], cursor: Cursor | None, late: Collection[int] = frozenset()
    ) -> list[Receipt]:
        """Take entries of ``peer``'s log, in its order, and note ``cursor``, in one transaction; a receipt for each.

        What is new at the positions ``late`` is not taken, but closes its payload at that index.

        When it returns all entries are on disk. LogError when the disk refuses: then nothing has happened. What
        `held_from` knows needs not be given to this.
        """
        if cursor is not None:
            self._cursors.pop(peer, None)
        size = sum(len(replica.body or b"") for replica in replicas)
        received = await self._write(lambda store: replica_jobs.append_from(store, peer, replicas, cursor, late), size)
        return list(received.receipts)

    def held_from(self, peer: str, replicas: Sequence[Replica], cursor: Cursor | None) -> list[Receipt] | None:
        """The receipts where all of the entries are here already and in memory, as all are that a second peer brings.

        Nothing is written then: ``cursor`` waits for the next transaction. It may lag, since what comes twice is held.
        """
        positions = [self._state.held(replica) for replica in replicas]
        receipts = [Receipt(Verdict.HELD, position) for position in positions if position is not None]
        if len(receipts) < len(positions):
            return None
        if cursor is not None:
            self._cursors[peer] = cursor
        return receipts

    async def replace(
        self,
        payload_id: PayloadId,
        from_index: int,
        *,
        peer: str = "",
        with_: Sequence[Replica] = (),
        cursors: Mapping[str, Cursor] | None = None,
    ) -> Replaced:
        """Move a payload's entries from ``from_index`` on to the evidence, and take ``with_`` in their place.

        One transaction, as `append_from`. ``cursors`` are set along with it; they may go back, so that what was
        refused before is fetched again.
        """
        size = sum(len(replica.body or b"") for replica in with_)
        for host in cursors or {}:
            self._cursors.pop(host, None)
        return self._replaced(
            await self._write(
                lambda store: replica_jobs.replace(store, payload_id, from_index, peer, with_, cursors or {}), size
            )
        )

    async def requeue(self, payload_id: PayloadId, from_index: int) -> None:
        """Give a payload's entries from an index on new positions at the end; none of them may have been shown."""
        await self._write(lambda store: replica_jobs.requeue(store, payload_id, from_index))

    async def renew(self) -> None:
        """Be another log to other hosts, without a vote: a peer has seen more of this one than it has."""
        self.log_id = await self._write(replica_jobs.renew)

    async def close_payload(self, payload_id: PayloadId, at: int) -> Replaced:
        """End a payload before index ``at`` for good: what is held from there on becomes evidence."""
        return self._replaced(await self._write(lambda store: replica_jobs.close_payload(store, payload_id, at)))

    def _replaced(self, change: BranchChange) -> Replaced:
        shown = sum(position <= self.head for position in change.removal.positions)
        return Replaced(len(change.removal.positions), shown, change.received.receipts)

    async def follow_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None) -> bool:
        """Record what a peer knows of a payload; whether that was news. A payload that is unknown here is none."""
        now = self._clock()

        def work(store: Store) -> StateSet | None:
            try:
                return store.set_state(payload_id, state, block_hash, now)
            except LogError:
                return None

        followed = await self._write(work)
        return followed is not None and followed.changed

    def set_cursor(self, peer: str, cursor: Cursor) -> None:
        """Note how far ``peer``'s log was followed, with the next transaction; nobody waits for it.

        Where the disk refuses, the earlier one stays: what is sent again is held.
        """
        self._cursors[peer] = cursor
        self._writer.post(self.progress_note())

    async def cursor_of(self, peer: str) -> Cursor | None:
        """How far ``peer``'s log was followed; None for one that never was."""
        if peer in self._cursors:
            return self._cursors[peer]
        return await self._readers.query(lambda reader: reader.cursor_of(peer))

    async def closed_at(self, payload_id: PayloadId) -> int | None:
        """The index from which a payload takes nothing more; None where it is not closed."""
        return await self._readers.query(lambda reader: reader.closed_at(payload_id))

    async def recovering(self) -> bool:
        """Whether this log has not voted yet."""
        return await self._readers.query(lambda reader: reader.recovering())

    async def set_recovering(self, *, recovering: bool) -> None:
        """Make it durable that this host must not vote, or that it may again."""
        await self._write(lambda store: replica_jobs.set_recovering(store, recovering=recovering))

    async def closed(self) -> list[tuple[PayloadId, int]]:
        """Every payload that was closed, with the index, oldest first."""
        return await self._readers.query(lambda reader: reader.closed())

    async def settled(self, limit: int) -> list[tuple[PayloadId, PayloadState, str | None]]:
        """What became of the newest ``limit`` payloads that are no longer being built, in log order."""
        return await self._readers.query(lambda reader: reader.settled(limit))

    async def given_through(self) -> int:
        """The last position that was ever given, also where nothing is any more."""
        return await self._readers.query(lambda reader: reader.given_through())

    async def pruned_through(self) -> int:
        """The last position that retention has removed; 0 for none."""
        mark = await self._readers.query(lambda reader: reader.mark())
        return mark.position if mark else 0

    def unseen(self, payload_id: PayloadId) -> int:
        """Entries of a payload that readers may not see yet, of the newest `RECORDS`."""
        records = self._state.records
        waiting = records.recent(max(self.head, records.floor), RECORDS.max_entries, self.appended) or ()
        return sum(record.payload_id == payload_id for record in waiting)

    def recent_records(self, after: int, limit: int) -> list[Record] | None:
        """Up to ``limit`` records after ``after`` from memory, committed or not; None where they are older."""
        return self._state.records.recent(after, limit, self.appended)

    async def records(self, after: int, *, limit: int, max_bytes: int) -> list[Record]:
        """The same from disk, at most ``max_bytes`` of bodies, but one at least. PrunedError as `read`."""
        through = self.appended
        return await self._readers.query(lambda reader: reader.records(after, through, limit, max_bytes))

    async def record(self, payload_id: PayloadId, index: int) -> Record | None:
        """One entry by its key, committed or not."""
        return await self._readers.query(lambda reader: reader.record(payload_id, index))

    def watch_states(self, on_state: OnState) -> AbstractContextManager[None]:
        """Call ``on_state`` after each change of a payload's state, while the block runs."""
        return self._state.watch_states(on_state)

    def keep_for(self, awaited: Callable[[], int | None]) -> None:
        """Let retention wait, within its bound, for whoever needs what is after ``awaited()``."""
        self._housekeeping.awaited = awaited

    def close(self) -> None:
        """Refuse what is to be written from now on, and end the waiting; what was submitted is still done."""
        if not self._state.commit_on_append:
            self._writer.post(self.progress_note())  # a log that is closed in order starts where it ended
        self._writer.close()
        self._state.point.close()

    # --- positions ---

    @property
    def head(self) -> int:
        """Last committed position, 0 when there is none: what readers may see."""
        return self._state.point.committed

    @property
    def appended(self) -> int:
        """Last position on this host's disk; ``head`` follows at once unless ``commit_on_append`` is off."""
        return self._state.point.appended

    @property
    def committed(self) -> int:
        """Last position that is committed; ``head`` is beyond it only where the operators want to show more."""
        return self._state.committed

    @property
    def removed_through(self) -> int:
        """Last position that retention has removed since the log was opened, 0 for none."""
        return self._housekeeping.removed_through

    def commit_through(self, position: int) -> None:
        """Make everything up to ``position`` committed and visible, as far as it is on disk."""
        self._state.commit_through(position)

    def show_through(self, position: int) -> None:
        """Make everything up to ``position`` visible, committed or not, until the next start."""
        self._state.point.commit_through(position)
        self._state.show()

    async def wait_past(self, position: int) -> None:
        """Return when ``head`` > ``position``; LogError when the log is closed first."""
        await self._state.point.wait_past(position)

    async def wait_appended_past(self, position: int) -> None:
        """Return when ``appended`` > ``position``; LogError when the log is closed first."""
        await self._state.point.wait_appended_past(position)

    # --- reading ---

    def recent(self, after: int, limit: int) -> list[Entry] | None:
        """Up to ``limit`` entries after ``after`` from memory; None where that is older than memory reaches."""
        return self._state.tail.recent(after, limit, self.head)

    async def read(self, after: int, *, limit: int, max_bytes: int) -> list[Entry]:
        """Entries after ``after`` from disk: at most ``limit`` and ``max_bytes`` of bodies, but one at least.

        Empty at the head. PrunedError where retention has removed an entry after ``after``: never a gap.
        """
        head = self.head
        return await self._readers.query(lambda reader: reader.read(after, head, limit, max_bytes))

    async def locate(self, resume: Resume) -> Located:
        """Where ``resume`` goes on; PrunedError (with ``oldest``) where entries that are due are not held."""
        head = self.head
        return await self._readers.query(lambda reader: reader.locate(resume, head))

    async def payload(self, payload_id: PayloadId) -> PayloadRecord | None:
        """What the log knows of one payload."""
        return await self._readers.query(lambda reader: reader.payload(payload_id))

    async def unfinished(self, limit: int) -> list[Entry]:
        """The last entry of each payload whose fate is not recorded: the newest ``limit`` of them, in log order."""
        return await self._readers.query(lambda reader: reader.unfinished(limit))

    async def evidence(self) -> list[Refused]:
        """The refused second bodies that are kept."""
        return await self._readers.query(lambda reader: reader.evidence())

    def statistics(self) -> dict[str, object]:
        """Figures for the status; ``file_bytes`` and ``wal_bytes`` are asked of the file system."""
        state = self._state
        return {
            "log_id": self.log_id,
            "head": self.head,
            "committed_position": self.committed,
            "appended_position": self.appended,
            **asdict(state.totals),
            **self._files.sizes(),
            "appended_since_start": state.appended,
            "removed_since_start": asdict(state.removed),
            "equivocations": state.equivocations,
            "out_of_order": state.out_of_order,
            "refused_from_peers": state.refused,
            "replaced": state.replaced,
            "retention_overruns": self._housekeeping.overruns,
            "waiting_writes": self._writer.waiting,
            "failed_writes": self._writer.failures,
            "last_error": self._writer.last_error,
            "tail": {"entries": len(state.tail), "bytes": state.tail.bytes, "after": state.tail.floor},
        }


@contextlib.asynccontextmanager
async def open_flashlog(
    folder: Path,
    *,
    retention: RetentionLimits = DEFAULT_RETENTION,
    retention_interval_s: float = 30.0,
    tail_limits: TailLimits = DEFAULT_TAIL,
    commit_on_append: bool = True,
    metrics: FlashlogMetrics | None = None,
    run_sync: RunSync | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[FlashLog]:
    """Open the log in ``folder`` and run its writer and its retention until the block ends.

    ``clock`` is the wall clock in seconds. ``run_sync`` runs SQLite; the default is threads of the log's own.
    With ``commit_on_append`` off, entries become visible by `FlashLog.commit_through` only. Raises LogError,
    one clear line, for a folder in use, a file that is not a log, a newer version's or a damaged one.
    Leaving the block writes what still waits.
    """
    metrics = metrics or FlashlogMetrics.create(CollectorRegistry())
    with OwnThread("flashlog") as thread:
        write, read = run_sync or thread, run_sync or OwnThreads(READERS)
        opened = await write(partial(open_files, replicated=not commit_on_append), folder, tail_limits)
        readers = Readers(opened.files.database, read)
        try:
            state = _state_of(opened, tail_limits, metrics, commit_on_append=commit_on_append)
            writer = Writer(opened.files.store, write, metrics, state.note_outcomes)
            housekeeping = Housekeeping(writer, readers, retention, clock, state.note_removed)
            log = FlashLog(opened, state, writer, readers, housekeeping, metrics, clock)
            async with _running(log, writer, housekeeping, retention_interval_s):
                yield log
        finally:
            with trio.CancelScope(shield=True):
                readers.close()
                await write(opened.files.close)


@contextlib.asynccontextmanager
async def _running(
    log: FlashLog, writer: Writer, housekeeping: Housekeeping, retention_interval_s: float
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        nursery.start_soon(housekeeping.run, retention_interval_s)
        try:
            yield
        finally:
            log.close()
            nursery.cancel_scope.cancel()  # the writer is shielded: it ends when its queue is empty


def _state_of(opened: OpenedLog, limits: TailLimits, metrics: FlashlogMetrics, *, commit_on_append: bool) -> LogState:
    floor = opened.newest[0].position - 1 if opened.newest else opened.head
    return LogState(
        Tail(floor, opened.newest, limits),
        Tail(opened.head, limits=TailLimits(0, 0) if commit_on_append else RECORDS),
        CommitPoint(opened.head, opened.committed),
        opened.totals,
        metrics,
        commit_on_append=commit_on_append,
    )
