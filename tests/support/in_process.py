"""Whole appliances in this process, on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from appliance.config.loader import load
from appliance.supervisor import Appliance


@asynccontextmanager
async def hosted(path: Path) -> AsyncIterator[Appliance]:
    """An appliance with this configuration file, until the block ends; `listening` has its addresses."""
    appliance = Appliance(load(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, appliance)
        try:
            yield appliance
        finally:
            appliance.stop()
            with trio.move_on_after(60, shield=True):
                await appliance.wait_stopped()


async def _run(appliance: Appliance, task_status: trio.TaskStatus[object]) -> None:
    await appliance.run(task_status=task_status)
