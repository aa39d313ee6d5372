"""A process that follows a peer's log and says so, until it is killed: `python -m tests.flashlog.follower FOLDER`.

The peer's log is `peer_entries()`. It prints "opening", then a line "cursor committed" after each batch on disk.
Now and then its own branch of a payload is there first, and has to be replaced.
"""

import os
import sys
from pathlib import Path

import trio

from appliance.domain.replicas import Copy, Cursor, Verdict
from appliance.flashlog import FlashLog, open_flashlog
from appliance.telemetry.logging import configure
from tests.flashlog.replicas import replicas
from tests.flashlog.support import flashblock, payload_id

PAYLOADS = 400
FLASHBLOCKS = 5
BATCH = 7
OWN_BRANCH_EVERY = 3


def peer_entries() -> list[Copy]:
    """The peer's log: positions from 1."""
    return replicas(
        flashblock(payload, index, size=index * 1500) for payload in range(PAYLOADS) for index in range(FLASHBLOCKS)
    )


async def follow(log: FlashLog) -> None:
    """From the cursor on, as the plane does: entries and cursor in one transaction, then the word that it is so."""
    entries = peer_entries()
    cursor = await log.cursor_of("peer") or Cursor("log", 0)
    for start in range(cursor.position, len(entries), BATCH):
        batch = entries[start : start + BATCH]
        await originate(log, batch[-1])
        end = Cursor("log", batch[-1].position)
        receipts = await log.append_from("peer", batch, end)
        for item, receipt in zip(batch, receipts, strict=True):
            if receipt.verdict is Verdict.REFUSED:
                whole = [other for other in batch if other.payload_id == item.payload_id and other.index >= item.index]
                await log.replace(item.payload_id, item.index, peer="peer", with_=whole, cursors={"peer": end})
                break
        log.commit_through(log.appended)
        os.write(1, f"{end.position} {log.head}\n".encode())


async def originate(log: FlashLog, item: Copy) -> None:
    """A flashblock of our own where the peer will have another one."""
    payload = int(item.payload_id, 16)
    if payload % OWN_BRANCH_EVERY == 0 and await log.payload(payload_id(payload)) is None and item.index == 0:
        await log.append(flashblock(payload, 0, text="own"), "a")


async def main(folder: Path) -> None:
    configure(level="error")
    os.write(1, b"opening\n")
    async with open_flashlog(folder, commit_on_append=False) as log:
        await follow(log)
        os.write(1, b"done 0\n")
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
