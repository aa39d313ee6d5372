"""A disk that is full, as the operating system says it: a limit on the size of files, in a process of its own."""

from pathlib import Path

import pytest

from appliance.flashlog.maintenance import verify
from tests.support.scripts import run_script

SCRIPT = """
import resource, sys
from pathlib import Path
import trio
from appliance.domain.errors import LogError
from appliance.flashlog import open_flashlog
from appliance.telemetry.logging import configure
from tests.flashlog.support import flashblock

configure(level="error")

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    async with open_flashlog(Path(sys.argv[1])) as log:
        await log.append(flashblock(1, 0), "a")
        limit(300_000)
        done = 1
        try:
            while True:
                await log.append(flashblock(1, done, size=20_000), "a")
                done += 1
        except LogError as error:
            print(error)
        failed = done
        try:
            await log.append(flashblock(1, failed, size=20_000), "a")
        except LogError:
            print("again")
        found = await log.read(0, limit=1000, max_bytes=2**40)
        assert [entry.index for entry in found] == list(range(done)), found
        assert log.head == done
        limit(resource.RLIM_INFINITY)
        entry = await log.append(flashblock(1, failed, size=20_000), "a")
        assert entry.position == log.head == done + 1
        statistics = log.statistics()
        assert statistics["failed_writes"] >= 2 and statistics["last_error"]
        print("recovered", done)

trio.run(main)
"""


@pytest.mark.slow
def test_a_full_disk_refuses_the_append_and_the_log_recovers_when_there_is_room(tmp_path: Path) -> None:
    first, second, third = run_script(SCRIPT, str(tmp_path), timeout_s=200).splitlines()
    assert first.startswith(f"cannot write {tmp_path}/flashlog.db: ")
    assert second == "again"
    done = int(third.removeprefix("recovered "))
    assert done > 2
    report = verify(tmp_path)
    assert report.ok, report.problems
    assert report.entries == done + 1
