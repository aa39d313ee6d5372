"""`appliance log prune`: retention by hand, on a log that no process uses."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from appliance.domain.errors import LogError
from appliance.flashlog.connection import FolderLock
from appliance.flashlog.files import DATABASE_NAME, folders_in_use
from appliance.flashlog.housekeeping import STEP_PAGES, STEP_PAYLOADS
from appliance.flashlog.reader import Reader
from appliance.flashlog.retention import RetentionLimits, cut
from appliance.flashlog.snapshot import database_path, open_snapshot
from appliance.flashlog.spans import Span
from appliance.flashlog.store import Removed, Store, Work


def prune(path: Path, limits: RetentionLimits, now: float, *, dry_run: bool = False) -> Removed:
    """Remove what is beyond ``limits`` from the log in ``path`` (its folder or its file) and shrink the file.

    ``now`` is wall clock seconds. The rules are retention's: whole payloads, oldest first, never the newest. With
    ``dry_run`` nothing is removed, and the log may be in use. LogError where it is in use otherwise.
    """
    given = database_path(path)
    database = Path(os.path.realpath(given))  # where a link leads: the WAL is there
    with open_snapshot(database) as connection:  # what is not a log is refused here, as it is
        if dry_run:
            return _would_remove(Reader(database, connection), limits, now)
    with _held(given, database) as store:
        with contextlib.closing(Reader(database)) as reader:
            removed = _remove(store, reader, limits, now)
            _shrink(store, reader)
        store.checkpoint()
        return removed


@contextlib.contextmanager
def _held(given: Path, database: Path) -> Iterator[Store]:
    """This very file, for writing. The lock of a folder is about the log of that name; a copy is no appliance's."""
    with contextlib.ExitStack() as stack:
        for folder in folders_in_use(given, database):
            stack.callback(FolderLock(folder).release)
        store = stack.enter_context(contextlib.closing(Store(database)))
        yield store
        if database.name != DATABASE_NAME:
            with contextlib.suppress(sqlite3.OperationalError):  # somebody reads it: then it stays in WAL mode
                store.connection.execute("PRAGMA journal_mode = DELETE")  # one file, as `backup` made it


def _remove(store: Store, reader: Reader, limits: RetentionLimits, now: float) -> Removed:
    total, removed = reader.totals().bytes, Removed()
    while (through := cut(reader.oldest_spans(STEP_PAYLOADS), total - removed.bytes, now, limits)) is not None:
        step = _run(store, partial(Store.remove_through, cut=through))
        if not isinstance(step, Removed) or not step.payloads:
            break
        removed += step
    return removed


def _shrink(store: Store, reader: Reader) -> None:
    for _ in range(0, reader.space().free_bytes, STEP_PAGES * reader.space().page_bytes):
        _run(store, lambda s: s.give_back(STEP_PAGES))


def _run(store: Store, work: Work) -> object:
    (outcome,) = store.apply([work])
    if isinstance(outcome, LogError):
        raise outcome
    return outcome


def _would_remove(reader: Reader, limits: RetentionLimits, now: float) -> Removed:
    spans = reader.oldest_spans(reader.totals().payloads)
    through = cut(spans, reader.totals().bytes, now, limits)
    going = [span for span in spans if through is not None and span.last_position <= through]
    entries = sum(_entries(reader, span) for span in going)
    return Removed(len(going), entries, sum(span.bytes for span in going))


def _entries(reader: Reader, span: Span) -> int:
    record = reader.payload(span.payload_id)
    return record.entries if record else 0
