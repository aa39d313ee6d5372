"""The files of a log in their folder: opened together, closed together."""

import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Entry
from appliance.flashlog.connection import FolderLock, translated
from appliance.flashlog.reader import Reader
from appliance.flashlog.replica_jobs import begin
from appliance.flashlog.spans import Totals
from appliance.flashlog.store import Store
from appliance.flashlog.tail import TailLimits

DATABASE_NAME = "flashlog.db"


@dataclass(frozen=True, slots=True)
class LogFiles:
    """flashlog.db, its WAL beside it, and the lock that makes this process the only writer."""

    database: Path
    lock: FolderLock
    store: Store

    def sizes(self) -> dict[str, int]:
        """Bytes of the database and of its WAL."""
        wal = self.database.with_name(f"{DATABASE_NAME}-wal")
        return {"file_bytes": _size(self.database), "wal_bytes": _size(wal)}

    def close(self) -> None:
        """Close the database, then let the next process in."""
        try:
            self.store.close()
        finally:
            self.lock.release()


@dataclass(frozen=True, slots=True)
class OpenedLog:
    """The files and what a start needs to know of them; ``newest`` are the last entries, in log order."""

    files: LogFiles
    log_id: str
    head: int
    committed: int
    totals: Totals
    newest: list[Entry]


def open_files(folder: Path, tail: TailLimits, *, replicated: bool | None = None) -> OpenedLog:
    """Create or open the log in ``folder``; LogError says in one line why that cannot be.

    ``committed`` is less than ``head`` only in a ``replicated`` log: what is between them waits for peers. With None,
    which is for maintenance, the log stays what it was.
    """
    create_folder(folder)
    lock = FolderLock(folder)
    try:
        path = folder / DATABASE_NAME
        files = LogFiles(path, lock, Store(path))
        return _look(files, tail, replicated=replicated)
    except BaseException:
        lock.release()
        raise


def folders_in_use(given: Path, database: Path) -> list[Path]:
    """Whose locks say that an appliance runs on a log: of the file as it was named, and where a link leads."""
    named = [Path(os.path.realpath(given.parent)) if given.name == DATABASE_NAME else None]
    found = [database.parent if database.name == DATABASE_NAME else None]
    return [folder for folder in dict.fromkeys(named + found) if folder is not None]


def create_folder(folder: Path) -> None:
    """Make the folder, and make it outlive a power cut."""
    with translated("create", folder):
        missing = list(itertools.takewhile(lambda path: not path.is_dir(), (folder, *folder.parents)))
        if missing:
            folder.mkdir(parents=True, mode=0o750)
        for made in missing:
            sync_folder(made.parent)


def _look(files: LogFiles, tail: TailLimits, *, replicated: bool | None) -> OpenedLog:
    try:
        (committed,) = files.store.apply([lambda store: begin(store, replicated=replicated)])
        if not isinstance(committed, int):
            raise LogError(f"cannot read how far {files.database} is committed: {committed}")
        with contextlib.closing(Reader(files.database)) as reader:
            newest = reader.newest(tail.max_entries, tail.max_bytes)
            return OpenedLog(files, reader.log_id(), reader.head(), committed, reader.totals(), newest)
    except BaseException:
        files.store.close()
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
