"""`appliance log verify|compare|evidence|export|import|backup|prune`: what operators do with a flashblock log."""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from appliance.domain.errors import ConfigError
from appliance.flashlog import maintenance
from appliance.flashlog.comparison import compare
from appliance.flashlog.evidence import evidence
from appliance.flashlog.jsonl import to_line
from appliance.flashlog.pruning import prune
from appliance.flashlog.retention import RetentionLimits

T = TypeVar("T")

_STANDARD = Path("-")
_DATABASE = "flashlog.db"


def log_verify(arguments: argparse.Namespace) -> int:
    """Exit code 1 when something is wrong; each finding is a line."""
    report = _with_progress("verifying", lambda progress: maintenance.verify(arguments.log, progress))
    for problem in report.problems:
        print(problem)
    verdict = "whole" if report.ok else "NOT whole"
    of = f"of {report.payloads:,} payloads" if report.complete else f"read, up to position {report.last_position:,}"
    refused = f"; {report.refused:,} refused second bodies: see `appliance log evidence`" if report.refused else ""
    print(f"{arguments.log}: {verdict}; {report.entries:,} entries {of}{refused}")
    return 0 if report.ok else 1


def log_evidence(arguments: argparse.Namespace) -> int:
    """A line for each second body that was refused; with --raw the body too, as `log export` writes entries."""
    for each in evidence(arguments.log):
        if arguments.raw:
            print(to_line(each).decode(), end="")
        else:
            at = datetime.fromtimestamp(each.received_at, UTC).isoformat(timespec="milliseconds")
            place = f"payload {each.payload_id} of block {each.block_number or '?'}, index {each.index}"
            held = "" if each.position else "; nothing is held there"
            print(f"{place}: {len(each.body):,} bytes from {each.builder} at {at}{held}")
    return 0


def log_export(arguments: argparse.Namespace) -> int:
    """To a new file, or to standard output."""
    if arguments.file == _STANDARD:
        maintenance.export_to(arguments.log, sys.stdout.buffer)
        return 0
    count = _with_progress("exporting", lambda progress: maintenance.export(arguments.log, arguments.file, progress))
    print(f"{arguments.file}: {count:,} entries")
    return 0


def log_import(arguments: argparse.Namespace) -> int:
    """From a file, or from standard input."""
    if arguments.log.name != _DATABASE:
        raise ConfigError(f"--log {arguments.log}: a log that entries are added to must be named {_DATABASE}")
    log, source = arguments.log, arguments.file
    if source == _STANDARD:
        imported = maintenance.import_from(log, sys.stdin.buffer)
    else:
        imported = _with_progress("importing", lambda progress: maintenance.import_(log, source, progress))
    print(f"{log}: {imported.added:,} entries added, {imported.known:,} were there already")
    return 0


def log_backup(arguments: argparse.Namespace) -> int:
    """To a new file, while the appliance runs."""
    if arguments.file == _STANDARD:
        raise ConfigError("a backup goes to a file, not to standard output")
    _with_progress("copying", lambda progress: maintenance.backup(arguments.log, arguments.file, progress))
    print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")
    return 0


def log_compare(arguments: argparse.Namespace) -> int:
    """Exit code 1 where the logs differ; each difference is a line."""
    found = _with_progress("comparing", lambda progress: compare(arguments.one, arguments.other, progress))
    for difference in found.differences:
        print(difference)
    verdict = "the same" if found.same else f"{found.difference_count:,} differences"
    print(f"{verdict}; {found.payloads:,} payloads and {found.entries:,} entries in both")
    return 0 if found.same else 1


def log_prune(arguments: argparse.Namespace) -> int:
    """Remove what is beyond the limits given; at least one has to be."""
    hours, mib = arguments.keep_hours, arguments.keep_mib
    if hours is None and mib is None:
        raise ConfigError("say how much to keep: --keep-hours, --keep-mib or both")
    if any(limit is not None and not limit >= 0 for limit in (hours, mib)):
        raise ConfigError("--keep-hours and --keep-mib: expected a number from 0")
    limits = RetentionLimits(
        max_age_s=None if hours is None else hours * 3600,
        max_bytes=None if mib is None else int(mib * 2**20),
        slack_bytes=0,
    )
    removed = prune(arguments.log, limits, time.time(), dry_run=arguments.dry_run)
    what = "would go" if arguments.dry_run else "removed"
    print(
        f"{arguments.log}: {removed.entries:,} entries of {removed.payloads:,} payloads {what}, {removed.bytes:,} bytes"
    )
    return 0


def _with_progress(what: str, work: Callable[[maintenance.Progress], T]) -> T:
    """A progress bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total or None))
