"""The part of a broadcast that is for those who do not want everything."""

from collections.abc import Sequence

from appliance.fanout.contents import Scan
from appliance.fanout.filters import Filter
from appliance.fanout.frames import RunSync, Variant
from appliance.fanout.framesets import FrameSet
from appliance.fanout.hub import Hub
from appliance.fanout.marks import Mark
from appliance.fanout.pacing import Pace
from appliance.fanout.session import Session, Stage

PASSED_AT_ONCE = 1000  # 0.06 ms

Part = tuple[Variant, tuple[int, ...]]
"""A variant, and which entries of a batch, by their number: whoever gets the same part gets the same bytes."""


class Filtered:
    """Judges the entries of a batch, once for all filters, and passes over those whom none is for.

    A batch has few entries, so there are few parts, however many filters there are. A session that comes to the
    head meanwhile stands behind the batch already; one that leaves it is judged alone, by its writer task.
    """

    def __init__(self, hub: Hub, pace: Pace, run_sync: RunSync) -> None:
        self._hub = hub
        self._pace = pace
        self._run_sync = run_sync

    async def plan(self, batch: Sequence[FrameSet]) -> dict[Part, list[Session]]:
        """Who gets which part of the batch; some get none of it."""
        matching = [await self._matching(item) for item in batch]
        parts: dict[Part, list[Session]] = {}
        for (variant, wanted), group in list(self._hub.heads.filtered.items()):
            numbers = tuple(number for number, filters in enumerate(matching) if wanted in filters)
            parts.setdefault((variant, numbers), []).extend(group)
            if self._pace.spent:
                await self._pace.give_way()
        return parts

    async def _matching(self, item: FrameSet) -> set[Filter]:
        contents = await item.examined.prepare(self._run_sync)
        scan = Scan(self._hub.filters.addresses, contents)
        while not scan.run(self._pace.clock, self._pace.until):
            await self._pace.give_way()
        found: set[Filter] = set()
        for _ in self._hub.filters.matching(contents, scan.hits, found):
            if self._pace.spent:
                await self._pace.give_way()
        return found

    async def pass_over(self, members: list[Session], before: Mark) -> None:
        """Move those who get nothing on to the end of the batch, as a `Round` does with those who get something."""
        after = self._hub.mark
        for begin in range(0, len(members), PASSED_AT_ONCE):
            for session in members[begin : begin + PASSED_AT_ONCE]:
                if session.stage is Stage.HEAD and session.mark is before:
                    session.mark = after
            if self._pace.spent:
                await self._pace.give_way()
