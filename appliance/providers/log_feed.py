"""The logs of one filter, block by block behind the heads: complete, in order, and taken back in a reorg.

An endpoint's own `logs` subscription ends with its connection, and what came meanwhile would have to be told apart
from what was sent already. Asking for each canonical block's logs by its hash gives the same on every endpoint.
"""

from collections import deque
from typing import Final, Protocol

import trio

from appliance.domain.errors import UnavailableError
from appliance.providers.head_feed import Ask
from appliance.providers.heads import Extended, Header
from appliance.providers.subscriptions import LogMemory, Logs, as_removed, decode_logs, logs_params
from appliance.telemetry.logging import get_logger
from appliance.wire.jsonrpc import MALFORMED

log = get_logger("providers")

# Steps that wait while logs are being asked for; over it the subscribers are told that they missed some.
_MOST_STEPS: Final = 256
_MEMORY_BYTES: Final = 8 * 1024 * 1024
_RETRY_S: Final = 0.5
_MOST_RETRIES: Final = 20


class LogListener(Protocol):
    """Who follows the logs of a filter. Neither method may wait."""

    def logs(self, subject: Logs, entries: list[bytes]) -> None:
        """Further logs, in order."""

    def lost_logs(self, subject: Logs) -> None:
        """Some could not be had."""


class LogFeed:
    """One filter. A `HeadListener`."""

    def __init__(self, subject: Logs, ask: Ask, bound: int) -> None:
        self.listeners: dict[LogListener, None] = {}
        self.scope = trio.CancelScope()
        self._subject = subject
        self._ask = ask
        self._memory = LogMemory(bound, _MEMORY_BYTES)
        self._steps: deque[Extended] = deque()
        self._more = trio.Event()

    def extended(self, step: Extended) -> None:
        """Further blocks."""
        if len(self._steps) >= _MOST_STEPS:
            self.lost(len(self._steps))
            return
        self._steps.append(step)
        self._more.set()

    def lost(self, missed: int) -> None:
        """What was missed cannot be filled in."""
        self._steps.clear()
        for listener in list(self.listeners):
            listener.lost_logs(self._subject)

    async def run(self) -> None:
        """Work off the blocks, until ``scope`` is cancelled."""
        with self.scope:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                while self._steps:
                    await self._take(self._steps.popleft())

    async def _take(self, step: Extended) -> None:
        for header in step.removed:
            self._take_back(header)
        for header in step.added:
            if not self._is_gone(header):
                await self._show(header)

    def _take_back(self, header: Header) -> None:
        shown = self._memory.forget(header.hash)
        if shown is None:
            if self._memory.has_gaps:
                self.lost(0)
            return
        self._tell([as_removed(entry) for entry in reversed(shown)])

    def _is_gone(self, header: Header) -> bool:
        """A later step removes it: then it need not be shown, and perhaps cannot."""
        return any(header.hash == removed.hash for step in self._steps for removed in step.removed)

    async def _show(self, header: Header) -> None:
        for _ in range(_MOST_RETRIES):
            try:
                raw = await self._ask("eth_getLogs", logs_params(self._subject.criteria, header.hash))
                entries = decode_logs(raw)
            except (UnavailableError, *MALFORMED) as error:
                log.debug("no logs of a block yet", block=header.number, error=str(error))
            else:
                self._memory.remember(header.hash, entries)
                self._tell([bytes(entry) for entry in entries])
                return
            await trio.sleep(_RETRY_S)
            if self._is_gone(header):
                return
        self.lost(0)

    def _tell(self, entries: list[bytes]) -> None:
        if entries:
            for listener in list(self.listeners):
                listener.logs(self._subject, entries)
