"""Places in the log for those who connect: after an outage thousands ask for the same few."""

from typing import Final

import trio

from appliance.domain.positions import Located, Resume
from appliance.fanout.ports import LogView

CONCURRENT_LOOKUPS: Final = 4  # more would only queue in the log, before those who catch up already
REMEMBERED: Final = 1024


class Lookups:
    """`LogView.locate`, asked once for each place and head of the log.

    While the head stays, so does the answer: retention can only take entries away, and then the read that
    follows says so. Answers are forgotten when the head moves or there are `REMEMBERED` of them.
    """

    def __init__(self, log: LogView) -> None:
        self._log = log
        self._turns = trio.Semaphore(CONCURRENT_LOOKUPS)
        self._head = -1
        self._known: dict[Resume, Located] = {}

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
        return self._known.get(resume)

    async def _ask(self, resume: Resume) -> Located:
        head = self._log.head
        found = await self._log.locate(resume)
        if head == self._log.head == self._head:  # else the answer may belong to either head
            self._known[resume] = found
        return found
