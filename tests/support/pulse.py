"""How long this process stood still: a machine that is shared lets it wait, and that is nobody's fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

BEAT_S = 0.02
USUAL_S = 0.03
"""A beat that is late by less says nothing."""


class Pulse:
    """``stood_still_s`` adds up by how much beats came late."""

    def __init__(self) -> None:
        self.stood_still_s = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = trio.current_time() + BEAT_S
            await trio.sleep_until(due)
            late_s = trio.current_time() - due
            self.stood_still_s += late_s if late_s > USUAL_S else 0.0


@asynccontextmanager
async def measured() -> AsyncIterator[Pulse]:
    """Beats until the block ends."""
    pulse = Pulse()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        yield pulse
        nursery.cancel_scope.cancel()
