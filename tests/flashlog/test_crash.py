"""Real processes, killed with SIGKILL at random moments: what an append has promised is there."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from appliance.domain.flashblocks import Entry
from appliance.flashlog import open_flashlog
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import verify
from appliance.flashlog.reader import Reader
from appliance.flashlog.store import CHECKPOINT_BYTES, TRANSACTION_BYTES, Store
from tests.flashlog.appender import LANES
from tests.flashlog.support import assert_contiguous, flashblock

REPOSITORY = Path(__file__).parents[2]
MAX = 2**40

pytestmark = pytest.mark.slow


class Appender:
    """The process of the module `appender`, and the lines that came from it."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self.lines: list[bytes] = []

    def read(self, count: int) -> None:
        """Wait for so many lines."""
        self.lines += [self._output.readline() for _ in range(count)]

    def read_rest(self) -> None:
        self.lines += self._output.readlines()


@contextmanager
def appending(folder: Path, run: int, keep: int = 0, most: int = 0) -> Iterator[Appender]:
    """Killed when the block ends; then ``lines`` has all that it has promised."""
    command = [sys.executable, "-m", "tests.flashlog.appender", str(folder), *map(str, (run, keep, most))]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        appender = Appender(process.stdout)
        try:
            assert process.stdout.readline() == b"opening\n"
            yield appender
        finally:
            process.kill()
            appender.read_rest()


def promised(lines: list[bytes]) -> dict[int, tuple[int, int]]:
    """(payload, index) by position. A line is one write to a pipe, so it is whole or not there."""
    found = {}
    for line in lines:
        position, payload, index = map(int, line.split())
        found[position] = (payload, index)
    return found


def held(folder: Path) -> tuple[int, list[Entry]]:
    """The position that retention has reached, and the entries after it."""
    with closing(Reader(folder / DATABASE_NAME)) as reader:
        mark = reader.mark()
        through = mark.position if mark else 0
        return through, reader.read(through, MAX, MAX, MAX)


def is_pruned(folder: Path) -> bool:
    with closing(Reader(folder / DATABASE_NAME)) as reader:
        return reader.mark() is not None


def check(folder: Path, promises: dict[int, tuple[int, int]]) -> int:
    """Every promise is kept, every payload is contiguous; return the last position."""
    report = verify(folder)
    assert report.ok, report.problems
    through, entries = held(folder)
    assert_contiguous(entries)
    by_position = {entry.position: entry for entry in entries}
    for position, (payload, index) in promises.items():
        if position > through:
            expected = flashblock(payload, index, size=index * 1500)
            assert by_position[position].body == expected.body
    return entries[-1].position if entries else through


@pytest.mark.parametrize("seed", [1, 2])
def test_what_append_returned_for_is_there_after_kill_9(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    promises: dict[int, tuple[int, int]] = {}
    last = 0
    for run in range(4):
        with appending(tmp_path, run) as appender:
            appender.read(moments.choice([1, 2, 5, 50, 300]))
            time.sleep(moments.uniform(0, 0.01))  # not at the moment of a line
        new = promised(appender.lines)
        assert not promises.keys() & new.keys()  # a position is never used again
        promises |= new
        last = check(tmp_path, promises)
    assert last >= len(promises) > 5


def test_kill_9_while_retention_removes(tmp_path: Path) -> None:
    moments = random.Random(3)
    for run in range(2):
        with appending(tmp_path, run, keep=300_000) as appender:
            appender.read(moments.randrange(300, 500))
            while not is_pruned(tmp_path):  # its threads may be slower than the writer's
                appender.read(20)
            time.sleep(moments.uniform(0, 0.01))
        check(tmp_path, promised(appender.lines))


def test_kill_9_while_the_log_is_being_made(tmp_path: Path) -> None:
    moments = random.Random(4)
    for run in range(4):
        folder = tmp_path / str(run)
        with appending(folder, run):
            time.sleep(moments.uniform(0, 0.025))
        folder.mkdir(exist_ok=True)
        with closing(Store(folder / DATABASE_NAME)):
            pass
        check(folder, {})


async def test_after_kill_9_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    with appending(tmp_path, 0) as appender:
        appender.read(40)
    last = check(tmp_path, promised(appender.lines))
    async with open_flashlog(tmp_path) as log:
        assert log.head == last
        entry = await log.append(flashblock(999_999, 0), "a")
        assert entry.position == last + 1


def test_a_wal_that_is_torn_in_the_middle_of_a_commit_loses_that_commit_only(tmp_path: Path) -> None:
    """All is in the WAL alone: what a checkpoint has copied into the file already cannot be taken back by tearing."""
    path, most = tmp_path / DATABASE_NAME, 200
    assert (most + LANES) * (TRANSACTION_BYTES + 7000) < CHECKPOINT_BYTES
    with appending(tmp_path, 0, most=most) as appender:
        appender.read(most)
    wal = path.with_name(f"{DATABASE_NAME}-wal")
    whole = wal.read_bytes()
    last = MAX
    for cut in range(len(whole), 0, -len(whole) // 25 or -1):
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir()
        (copy / DATABASE_NAME).write_bytes(path.read_bytes())
        (copy / f"{DATABASE_NAME}-wal").write_bytes(whole[:cut])
        with closing(Store(copy / DATABASE_NAME)):
            pass
        now = check(copy, {})
        assert now <= last
        last = now
