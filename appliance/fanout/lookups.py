"""Places in the log for those who connect: after an outage thousands ask for the same few."""

from typing import Final

import trio

from appliance.domain.positions import AfterPayload, Located, Resume
from appliance.fanout.ports import LogView

CONCURRENT_LOOKUPS: Final = 4  # more would only queue in the log, before those who catch up already
REMEMBERED: Final = 1024


class Lookups:
    """`LogView.locate`, asked once for each place and head of the log.

    While the head stays, so does the answer: retention can only take entries away, and then the read that
    follows says so. Answers are forgotten when the head moves or there are `REMEMBERED` of them, but for those that
    name an entry by its payload: as long as the entry is there, it is where it was. In a storm, of which one takes
    several flashblocks' time, nearly everybody asks for the same.
    """

    def __init__(self, log: LogView) -> None:
        self._log = log
        self._turns = trio.Semaphore(CONCURRENT_LOOKUPS)
        self._head = -1
        self._known: dict[Resume, Located] = {}
        self._exact: dict[AfterPayload, Located] = {}  # no more of them either

    async def locate(self, resume: Resume) -> Located:
        """Where ``resume`` goes on. Raises PrunedError, which is not remembered, and LogError."""
        found = self.recall(resume)
        if found is None:
            async with self._turns:
                # Somebody before us in the queue may have asked the same.
                found = self.recall(resume) or await self._ask(resume)
        return found

    def recall(self, resume: Resume) -> Located | None:
        """The answer, if somebody asked the same since the head moved."""
        if self._head != self._log.head or len(self._known) >= REMEMBERED:
            self._head = self._log.head
            self._known.clear()
        found = self._known.get(resume)
        if found is None and isinstance(resume, AfterPayload):
            found = self._exact.get(resume)
            if found is not None and not self._is_at(resume, found):
                found = None
        return found

    async def _ask(self, resume: Resume) -> Located:
        head = self._log.head
        found = await self._log.locate(resume)
        if head == self._log.head == self._head:  # else the answer may belong to either head
            self._known[resume] = found
        if isinstance(resume, AfterPayload) and self._is_at(resume, found):
            if len(self._exact) >= REMEMBERED:
                self._exact.clear()
            self._exact[resume] = found
        return found

    def _is_at(self, resume: AfterPayload, found: Located) -> bool:
        """Whether the very entry that ``resume`` names is held in memory where it was found."""
        if found.skip_through is not None or found.position == 0:
            return False
        held = next(iter(self._log.recent(found.position - 1, 1) or ()), None)
        place = found.position, resume.payload_id, resume.index
        return held is not None and (held.position, held.payload_id, held.index) == place
