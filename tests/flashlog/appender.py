"""A process that appends and says so, until it is killed: `python -m tests.flashlog.appender FOLDER RUN KEEP MOST`.

It prints "opening", then a line "position payload index" after each append that has returned. KEEP is how many
bytes retention leaves, 0 for all. Once the log has MOST entries it only waits to be killed, 0 for never: its reader may
stand still for any time.
"""

import itertools
import os
import sys
from pathlib import Path

import trio

from appliance.flashlog import FlashLog, RetentionLimits, open_flashlog
from appliance.telemetry.logging import configure
from tests.flashlog.support import flashblock

LANES = 4
FLASHBLOCKS = 5


async def feed(log: FlashLog, first_payload: int, most: int) -> None:
    """One payload after the other, several lanes at the same time: so transactions have several entries."""
    for payload in itertools.count(first_payload):
        for index in range(FLASHBLOCKS):
            entry = await log.append(flashblock(payload, index, size=index * 1500), "a")
            os.write(1, f"{entry.position} {payload} {index}\n".encode())
            if most and log.head >= most:
                await trio.sleep_forever()


async def main(folder: Path, run: int, keep: int, most: int) -> None:
    configure(level="error")
    os.write(1, b"opening\n")
    limits = RetentionLimits(max_age_s=None, max_bytes=keep or None, slack_bytes=0)
    log_of_run = open_flashlog(folder, retention=limits, retention_interval_s=0.005)
    async with log_of_run as log, trio.open_nursery() as nursery:
        for lane in range(LANES):
            nursery.start_soon(feed, log, (run * LANES + lane) * 10_000, most)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
