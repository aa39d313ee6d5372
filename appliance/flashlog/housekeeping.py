"""Retention as a background task: removes what is due in small steps and gives free pages back to the disk.

The steps are jobs of the writer among others, so an append waits for one step (a few milliseconds), not for
all of them. Freed pages are used again by the next entries; only more than a slack of them leaves the file.
"""

from collections.abc import Callable

import trio

from appliance.domain.errors import LogError
from appliance.flashlog.readers import Readers
from appliance.flashlog.retention import RetentionLimits, cut
from appliance.flashlog.spans import Totals
from appliance.flashlog.store import Removed
from appliance.flashlog.writer import Writer
from appliance.telemetry.logging import get_logger

log = get_logger("flashlog")

STEP_PAYLOADS = 64
"""Payloads that one step looks at, so it removes fewer: about 10 MB of a busy chain."""

STEP_PAGES = 256
"""Pages that one step gives back: 2 MiB."""


class Housekeeping:
    """Applies the limits now and then."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        limits: RetentionLimits,
        clock: Callable[[], float],
        on_removed: Callable[[Removed, Totals], None],
    ) -> None:
        """``clock`` is the wall clock, in seconds; ``on_removed`` hears what went and what is left."""
        self._writer = writer
        self._readers = readers
        self._limits = limits
        self._clock = clock
        self._on_removed = on_removed
        self.awaited: Callable[[], int | None] = lambda: None
        self.overruns = 0
        self.removed_through = 0

    async def run(self, interval_s: float) -> None:
        """Apply the limits every ``interval_s``, for ever; a start is not the time for it.

        A failure (disk) is logged and tried again.
        """
        while True:
            await trio.sleep(interval_s)
            try:
                await self.apply_limits()
            except LogError as error:
                log.warning("retention failed", error=str(error))

    async def apply_limits(self) -> Removed:
        """Remove all that is due and return how much that was."""
        before = await self._readers.query(lambda reader: reader.totals())
        removed = Removed()
        while (step := await self._remove_step(before.bytes - removed.bytes)).payloads:
            removed += step
        if removed.payloads:
            log.debug("retention removed payloads", payloads=removed.payloads, entries=removed.entries)
            await self._shrink()
            self._on_removed(removed, await self._readers.query(lambda reader: reader.totals()))
        return removed

    async def _remove_step(self, total_bytes: int) -> Removed:
        spans = await self._readers.query(lambda reader: reader.oldest_spans(STEP_PAYLOADS))
        awaited = self.awaited()
        through = cut(spans, total_bytes, self._clock(), self._limits, awaited)
        if through is None:
            return Removed()
        if awaited is not None and through > awaited:
            self.overruns += 1
            log.warning("retention removes what a peer has not fetched", through=through, awaited=awaited)
        removed = await self._writer.submit(lambda store: store.remove_through(through))
        if removed.payloads:
            self.removed_through = through
        return removed

    async def _shrink(self) -> None:
        space = await self._readers.query(lambda reader: reader.space())
        surplus = (space.free_bytes - self._limits.slack_bytes) // space.page_bytes
        for start in range(0, surplus, STEP_PAGES):
            await self._give_back(min(STEP_PAGES, surplus - start))

    async def _give_back(self, pages: int) -> None:
        await self._writer.submit(lambda store: store.give_back(pages))
