"""A host that follows another one, killed with SIGKILL at random moments."""

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Copy
from appliance.flashlog import open_flashlog
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import verify
from appliance.flashlog.reader import Reader
from tests.flashlog.follower import FLASHBLOCKS, PAYLOADS, peer_entries

REPOSITORY = Path(__file__).parents[2]
MAX = 2**40
DONE = b"done 0\n"
"""Its last line: a process that nobody kills in time has followed all there is, and so has the next one then."""

pytestmark = pytest.mark.slow


def follow_until_killed(folder: Path, lines: int, pause_s: float) -> list[list[bytes]]:
    """What the process said before it died."""
    command = [sys.executable, "-m", "tests.flashlog.follower", str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said: list[bytes] = []
        try:
            assert process.stdout.readline() == b"opening\n"
            while len(said) < lines and DONE not in said:
                said.append(process.stdout.readline())
            time.sleep(pause_s)
        finally:
            process.kill()
        said += process.stdout.readlines()
    return [line.split() for line in said]


def check(folder: Path, kills: int) -> int:
    """What the cursor has passed is there, byte for byte, and nothing else; return where it stands."""
    report = verify(folder)
    assert report.ok, report.problems
    with closing(Reader(folder / DATABASE_NAME)) as reader:
        cursor = reader.cursor_of("peer")
        records = reader.records(0, MAX, MAX, MAX)
    held = {(record.payload_id, record.index): record.prefix for record in records}
    passed = cursor.position if cursor else 0
    assert len(held) == len(records)
    wrong = {item.payload_id for item in peer_entries()[:passed] if held.get(item_key(item)) != item.prefix}
    assert len(wrong) <= kills  # refused, and killed before its own branch was replaced
    rest = held.keys() - {item_key(item) for item in peer_entries()[:passed]}
    assert len(rest) <= 1  # a flashblock of its own whose time has not come
    return passed


def item_key(item: Copy) -> tuple[PayloadId, int]:
    return item.payload_id, item.index


def test_a_follower_that_is_killed_has_all_that_its_cursor_has_passed(tmp_path: Path) -> None:
    moments = random.Random(5)
    said_through = 0
    for kills in range(1, 6):
        said = follow_until_killed(tmp_path, moments.choice([1, 3, 10, 25]), moments.uniform(0, 0.01))
        numbers = [int(line[0]) for line in said if line[0] != b"done"]
        said_through = max([said_through, *numbers])
        assert check(tmp_path, kills) >= said_through  # it said so after its fsync
    assert 0 < said_through <= PAYLOADS * FLASHBLOCKS


async def test_what_was_committed_before_the_last_transaction_is_committed_after_kill_9(tmp_path: Path) -> None:
    said = follow_until_killed(tmp_path, 20, 0.0)
    *_, before_last, _last = [int(line[1]) for line in said if line[0] != b"done"]
    async with open_flashlog(tmp_path, commit_on_append=False) as log:
        assert log.head >= before_last
        assert log.appended >= log.head
