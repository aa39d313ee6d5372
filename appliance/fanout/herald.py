"""The task that hears from the log what became of payloads, and tells those who asked for it."""

from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from appliance.domain.errors import LogError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.fanout.broadcast import Broadcast
from appliance.fanout.hub import Hub
from appliance.fanout.notices import TOLD, Notice, fate
from appliance.fanout.pacing import Clock, Pace
from appliance.fanout.ports import StateSource
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

WAITING: Final = 256  # changes that are not posted yet; when they are as many the oldest is left out


@dataclass(frozen=True, slots=True)
class _Change:
    payload_id: PayloadId
    state: PayloadState
    block_hash: str | None
    position: int


class Herald:
    """Posts the fate of payloads on the hub's board, and serves it to the sessions at the head."""

    def __init__(self, hub: Hub, broadcast: Broadcast, source: StateSource, clock: Clock) -> None:
        self._hub = hub
        self._broadcast = broadcast
        self._source = source
        self._pace = Pace(clock)
        self._changes: deque[_Change] = deque(maxlen=WAITING)
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; ``started`` when no change is missed any more."""
        with self._source.watch_states(self._note):
            task_status.started()
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                while self._changes:
                    await self._post(self._changes.popleft())
                await self._tell()

    def _note(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None) -> None:
        if state in TOLD:
            # The payload is closed by now: all of it is in the log, so what is there includes it.
            self._changes.append(_Change(payload_id, state, block_hash, self._source.appended))
            self._changed.set()

    async def _post(self, change: _Change) -> None:
        block_number = await self._block_number(change.payload_id)
        data = fate(change.payload_id, change.state, block_number, change.block_hash)
        self._hub.board.post(Notice(change.position, data))

    async def _block_number(self, payload_id: PayloadId) -> int | None:
        try:
            record = await self._source.payload(payload_id)
        except LogError as error:
            log.warning("cannot look up a payload", payload_id=payload_id, error=str(error))
            return None
        return record.block_number if record else None

    async def _tell(self) -> None:
        """Those who catch up are told by their writer tasks, when they have come so far."""
        await self._broadcast.wait_delivered(self._hub.board.last_position)
        for session in list(self._hub.listeners):
            self._hub.write_control(session)
            if self._pace.spent:
                await self._pace.give_way()
