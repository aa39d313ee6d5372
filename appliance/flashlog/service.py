"""The flashblock log as the other planes use it."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import Located, Resume
from appliance.flashlog.commit_point import CommitPoint
from appliance.flashlog.files import LogFiles, OpenedLog, open_files
from appliance.flashlog.housekeeping import Housekeeping
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.readers import READERS, Readers
from appliance.flashlog.retention import RetentionLimits
from appliance.flashlog.rows import Arrival, Refused
from appliance.flashlog.spans import PayloadRecord
from appliance.flashlog.state import LogState
from appliance.flashlog.store import Removed
from appliance.flashlog.tail import Tail, TailLimits
from appliance.flashlog.threads import OwnThreads, RunSync
from appliance.flashlog.writer import Writer

DEFAULT_RETENTION = RetentionLimits()
DEFAULT_TAIL = TailLimits()


class FlashLog:
    """One host's flashblock log; made by `open_flashlog`. All methods are for the trio thread."""

    def __init__(
        self,
        files: LogFiles,
        state: LogState,
        writer: Writer,
        readers: Readers,
        housekeeping: Housekeeping,
        metrics: FlashlogMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._files = files
        self._state = state
        self._writer = writer
        self._readers = readers
        self._housekeeping = housekeeping
        self._metrics = metrics
        self._clock = clock
        metrics.file_bytes.set_function(lambda: sum(files.sizes().values()))

    def __repr__(self) -> str:
        return f"<FlashLog {self._files.database}: head {self.head}>"

    # --- writing ---

    async def append(self, flashblock: Flashblock, builder: str) -> Entry:
        """Append and return the entry once it is on disk; the same body again returns the entry that is held.

        Raises EquivocationError for another body under the same key (kept as evidence), OutOfOrderError for
        one that does not follow, LogError when the disk refuses; the next append tries again. Cancelled, the
        flashblock may or may not be in the log; appended again it is there once.
        """
        started = trio.current_time()
        arrival = Arrival(flashblock, builder, received_at=self._clock())
        appended = await self._writer.submit(lambda store: store.append(arrival), len(flashblock.body))
        self._metrics.append_seconds.observe(trio.current_time() - started)
        return appended.entry

    async def set_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None = None) -> None:
        """Record what became of a payload; LogError where the log does not know it or it cannot go back."""
        now = self._clock()
        await self._writer.submit(lambda store: store.set_state(payload_id, state, block_hash, now))

    async def apply_retention(self) -> Removed:
        """Remove now what the limits say, as the background task does now and then."""
        return await self._housekeeping.apply_limits()

    # --- positions ---

    @property
    def head(self) -> int:
        """Last committed position, 0 when there is none: what readers may see."""
        return self._state.point.committed

    @property
    def appended(self) -> int:
        """Last position on this host's disk; ``head`` follows at once unless ``commit_on_append`` is off."""
        return self._state.point.appended

    def commit_through(self, position: int) -> None:
        """Make everything up to ``position`` visible, as far as it is on disk."""
        self._state.point.commit_through(position)

    async def wait_past(self, position: int) -> None:
        """Return when ``head`` > ``position``; LogError when the log is closed first."""
        await self._state.point.wait_past(position)

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
            "head": self.head,
            "appended_position": self.appended,
            **asdict(state.totals),
            **self._files.sizes(),
            "appended_since_start": state.appended,
            "removed_since_start": asdict(state.removed),
            "equivocations": state.equivocations,
            "out_of_order": state.out_of_order,
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
    write, read = run_sync or OwnThreads(1), run_sync or OwnThreads(READERS)
    opened = await write(open_files, folder, tail_limits)
    try:
        state = _state_of(opened, tail_limits, metrics, commit_on_append=commit_on_append)
        writer = Writer(opened.files.store, write, metrics, state.note_outcomes)
        readers = Readers(opened.files.database, read)
        housekeeping = Housekeeping(writer, readers, retention, clock, state.note_removed)
        log = FlashLog(opened.files, state, writer, readers, housekeeping, metrics, clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            nursery.start_soon(housekeeping.run, retention_interval_s)
            try:
                yield log
            finally:
                writer.close()
                state.point.close()
                nursery.cancel_scope.cancel()  # the writer is shielded: it ends when its queue is empty
    finally:
        with trio.CancelScope(shield=True):
            readers.close()
            await write(opened.files.close)


def _state_of(opened: OpenedLog, limits: TailLimits, metrics: FlashlogMetrics, *, commit_on_append: bool) -> LogState:
    floor = opened.newest[0].position - 1 if opened.newest else opened.head
    tail = Tail(floor, opened.newest, limits)
    return LogState(tail, CommitPoint(opened.head), opened.totals, metrics, commit_on_append=commit_on_append)
