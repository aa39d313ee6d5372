"""What operators do with a log: export, import, backup (and `verify`, in its own module).

Plain synchronous functions. All but the import work while the appliance runs. Every failure is a LogError of
one line; a file that is written appears under its name only when it is complete.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from appliance.domain.errors import DecodeError, LogError
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.flashlog.connection import FolderLock, translated
from appliance.flashlog.contiguity import admit
from appliance.flashlog.files import DATABASE_NAME, folders_in_use, open_files, sync_folder
from appliance.flashlog.jsonl import ExportedEntry, from_line, to_line
from appliance.flashlog.replica_jobs import commit_imported, uncommitted
from appliance.flashlog.rows import Arrival
from appliance.flashlog.snapshot import count_entries, database_path, open_snapshot
from appliance.flashlog.store import Appended, Store
from appliance.flashlog.tail import TailLimits
from appliance.flashlog.verification import PROGRESS_EVERY, Progress, Report, silent, verify
from appliance.wire.flashblock import decode

__all__ = ["Imported", "Progress", "Report", "backup", "export", "export_to", "import_", "import_from", "verify"]

IMPORT_BATCH = 256
BACKUP_PAGES = 1024

MAX_LINE_BYTES = 64 * 2**20
"""A line of an import; the largest body that a builder may send has a few MiB, escapes can make it six times that."""


@dataclass(frozen=True, slots=True)
class Imported:
    """How many entries an import added, and how many the log held already."""

    added: int = 0
    known: int = 0


def export(path: Path, out: Path, progress: Progress = silent) -> int:
    """Write every entry of the log in ``path`` to the new file ``out``, one JSON line each; return how many.

    The format is in the module `jsonl`. ``progress`` counts entries. LogError where ``out`` exists.
    """
    with _appears_when_complete(out) as partial, translated("write", partial), partial.open("wb") as stream:
        return export_to(path, stream, progress)


def export_to(path: Path, stream: BinaryIO, progress: Progress = silent) -> int:
    """Like `export`, to a stream (standard output, say), whose own errors propagate as they are."""
    database = database_path(path)
    done = 0
    with open_snapshot(database) as connection:
        total = count_entries(connection, database)
        for done, entry in enumerate(_entries(connection, database), start=1):
            stream.write(to_line(entry))
            if done % PROGRESS_EVERY == 0:
                progress(done, total)
    progress(done, total)
    return done


def _entries(connection: sqlite3.Connection, database: Path) -> Iterator[ExportedEntry]:
    with translated("read", database):
        for row in connection.execute(
            "SELECT e.position, e.payload_id, e.idx, p.block_number, e.encoding, e.builder, e.received_at,"
            " e.body FROM entries e JOIN payloads p USING (payload_id) ORDER BY e.position"
        ):
            position, payload_id, index, number, encoding, builder, received_at, body = row
            yield ExportedEntry(
                position, PayloadId(payload_id), index, number, Encoding(encoding), builder, received_at, body
            )


def import_(path: Path, source: Path, progress: Progress = silent) -> Imported:
    """Add the entries of an exported file to the log in ``path`` (its folder or its file), made if not there.

    Entries that the log holds already are passed over, so an import that broke off can be repeated. An entry
    keeps its position where that is after the log's last one. Imported payloads are `sealed`: what became of
    them is not in the file. ``progress`` counts bytes. LogError names the line that is wrong, and how
    much of what is before it was added. The appliance must not run on the folder.
    """
    with translated("read", source), source.open("rb") as stream:
        size = source.stat().st_size
        return import_from(path, stream, lambda done, _total: progress(done, size))


def import_from(path: Path, stream: BinaryIO, progress: Progress = silent) -> Imported:
    """Like `import_`, from a stream; the total of ``progress`` is 0 because it is not known."""
    given, database = _database_to_fill(path)
    lines = enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1)
    first = list(islice(lines, 1))
    if not database.exists():
        _check_that_a_log_may_begin_with(first)
    with contextlib.ExitStack() as stack:
        for folder in folders_in_use(given, database):
            if folder != database.parent:  # which is locked with the files
                stack.callback(FolderLock(folder).release)
        files = open_files(database.parent, TailLimits(max_entries=0)).files
        stack.callback(files.close)
        _refuse_where_peers_are_awaited(files.store)
        return _Import(files.store, progress).run(chain(first, lines))


def _check_that_a_log_may_begin_with(lines: list[tuple[int, bytes]]) -> None:
    """A log is not made for a file of something else."""
    for number, line in lines:
        try:
            admit(None, arrival_of(from_line(line)).flashblock)
        except LogError as error:
            raise LogError(f"line {number}: {error}; no log was made") from error


def _refuse_where_peers_are_awaited(store: Store) -> None:
    """What is imported counts as committed, and what is before it in the log would with it."""
    waiting = uncommitted(store)
    if waiting:
        text = f"cannot import: {waiting} flashblocks of this log wait for other hosts: run the appliance beside them,"
        raise LogError(f"{text} and stop it when `appliance status` says that 0 are held")


def _database_to_fill(path: Path) -> tuple[Path, Path]:
    """The file, there or not: as it was named, and where a link leads."""
    with translated("open", path):
        is_folder = path.is_dir() or (path.name != DATABASE_NAME and not path.exists())
    given = path / DATABASE_NAME if is_folder else path
    database = Path(os.path.realpath(given))
    if database.name != DATABASE_NAME:
        raise LogError(f"cannot import into {path}: a log is a folder with {DATABASE_NAME} in it")
    return given, database


class _Import:
    """Lines to batches, each batch one transaction."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._batch: list[tuple[int, Arrival]] = []
        self._added = 0
        self._known = 0
        self._bytes = 0

    def run(self, lines: Iterable[tuple[int, bytes]]) -> Imported:
        try:
            for number, line in lines:
                self._bytes += len(line)
                self._take(number, line)
            self._flush()
        except LogError as error:
            before = f"before that {self._added:,} entries were added, {self._known:,} were there already"
            raise LogError(f"{error}; {before}") from error
        return Imported(self._added, self._known)

    def _take(self, number: int, line: bytes) -> None:
        try:
            arrival = arrival_of(from_line(line))
        except LogError as error:
            self._flush()
            raise LogError(f"line {number}: {error}") from error
        self._batch.append((number, arrival))
        if len(self._batch) >= IMPORT_BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        done: list[Appended] = []
        (outcome,) = self._store.apply([lambda store: self._append_all(store, batch, done)])
        self._added += sum(each.new for each in done)  # only now: a transaction that fails takes all of them along
        self._known += sum(not each.new for each in done)
        if self._store.checkpoint_is_due:
            self._store.checkpoint()
        self._progress(self._bytes, 0)
        if isinstance(outcome, LogError):
            raise outcome

    def _append_all(self, store: Store, batch: list[tuple[int, Arrival]], done: list[Appended]) -> None:
        for number, arrival in batch:
            try:
                done.append(self._append(store, arrival))
            except LogError as error:
                commit_imported(store)  # what is before the line stays
                raise LogError(f"line {number}: {error}") from error
        commit_imported(store)

    def _append(self, store: Store, arrival: Arrival) -> Appended:
        appended = store.append(arrival)
        if appended.new and appended.entry.index == 0:
            store.set_state(appended.entry.payload_id, PayloadState.SEALED, None, arrival.received_at)
        return appended


def arrival_of(exported: ExportedEntry) -> Arrival:
    """What to append for a line; LogError where its body is not the flashblock that the line says."""
    try:
        flashblock = decode(exported.body, exported.encoding)
    except DecodeError as error:
        raise LogError(f"the body does not decode: {error}") from error
    said = (exported.payload_id, exported.index)
    if not isinstance(flashblock, Flashblock) or (flashblock.payload_id, flashblock.index) != said:
        raise LogError(f"the body is not flashblock {exported.index} of payload {exported.payload_id}")
    if flashblock.block_number not in (None, exported.block_number):
        raise LogError(f"the body says block {flashblock.block_number}, not {exported.block_number}")
    numbered = replace(flashblock, block_number=exported.block_number)
    return Arrival(numbered, exported.builder, exported.received_at, exported.position)


def backup(path: Path, to: Path, progress: Progress = silent) -> int:
    """Copy the log in ``path`` to the new file ``to`` and check the copy; return its bytes.

    One snapshot, also while the appliance writes: a folder with the copy as flashlog.db is a log as it was
    then. ``progress`` counts pages. LogError where ``to`` exists.
    """
    with _appears_when_complete(to) as partial:
        with open_snapshot(path) as source, translated("write", partial):
            _copy(source, partial, progress)
        return partial.stat().st_size


def _copy(source: sqlite3.Connection, to: Path, progress: Progress) -> None:
    with contextlib.closing(sqlite3.connect(to, isolation_level=None)) as target:
        source.backup(
            target,
            pages=BACKUP_PAGES,  # in steps, for the progress; the snapshot is what keeps them together
            progress=lambda _status, remaining, total: progress(total - remaining, total),
        )
        # Out of WAL mode it is one file, which is read without making others beside it; a start puts it back.
        target.execute("PRAGMA journal_mode = DELETE")
        # It goes on by itself from here: to peers it is another log, whose positions mean something else. What its host
        # votes after this moment it does not know, so it must not vote before it has caught up.
        target.execute("UPDATE replication SET log_id = lower(hex(randomblob(16))), recovering = 1")
        (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise LogError(f"the copy is damaged, and so is the log: {found}")


@contextlib.contextmanager
def _appears_when_complete(out: Path) -> Iterator[Path]:
    """A name to write under; ``out`` is there, on disk, when the block ends well, and else nothing is left."""
    with translated("write", out):
        for taken in _with_side_files(out):  # SQLite would take an older log's WAL for this one's
            if taken.exists():
                raise LogError(f"{taken} exists already")
        if not out.parent.is_dir():
            raise LogError(f"there is no folder {out.parent}")
    partial = out.with_name(f"{out.name}.partial")
    with translated("write", partial):
        partial.unlink(missing_ok=True)
        partial.touch()  # SQLite would not say why it cannot
    try:
        yield partial
        with translated("write", partial):
            _sync_file(partial)
            partial.replace(out)
            sync_folder(out.parent)
    finally:
        for left in _with_side_files(partial):
            with contextlib.suppress(OSError):  # what made the block fail is the better reason
                left.unlink(missing_ok=True)


def _with_side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
