"""A connection with a host: what the core sends on it goes out in order, what comes in goes to the core."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.net.duplex import Duplex
from appliance.replication.bell import Bell
from appliance.wire import replication as wire
from appliance.wire.replication import AnyMessage, Entries, Settled

if TYPE_CHECKING:
    from appliance.replication.runner import Runner

MAX_OUTBOX: Final = 16_384
"""Messages that wait for a slow connection, more than all tombstones and a window; then it is ended."""

MAX_STATES: Final = 256
"""Payload states that wait for a follower; the oldest go. They are for information only."""


class Connection:
    """One, of either side, which the core knows by its `name`."""

    def __init__(self, runner: "Runner", duplex: Duplex) -> None:
        self.name = object()
        self.address = duplex.name
        self.reason = "the connection ended"
        self.failed = True
        self._runner = runner
        self._duplex = duplex
        self._outbox: deque[bytes] = deque()
        self._states: deque[tuple[int, Settled]] = deque(maxlen=MAX_STATES)
        self._bell = Bell()
        self._is_ending = False

    def __repr__(self) -> str:
        return f"<Connection with {self.address}>"

    def send(self, message: AnyMessage) -> None:
        """After what was sent before. Entries go out at once where nothing waits: a commit is waiting for them.

        All else has time until the next turn of the loop, so that it does not hold up entries for another host.
        """
        data = wire.encode(message)
        if isinstance(message, Entries) and not self._outbox and not self._is_ending and self._duplex.send_now(data):
            if self._states:
                self._bell.ring()  # they may have waited for these entries
            return
        self._outbox.append(data)
        self._bell.ring()
        if len(self._outbox) > MAX_OUTBOX:
            self.end("the connection does not keep up", failed=True)
            self._outbox.clear()

    def end(self, reason: str, *, failed: bool) -> None:
        """Send what waits, and close."""
        if not self._is_ending:
            self._is_ending, self.reason, self.failed = True, reason, failed
        self._bell.ring()

    def tell_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None) -> None:
        """What became of a payload; told after the entries that are in the log now."""
        self._states.append((self._runner.flashlog.appended, Settled(payload_id, state, block_hash)))
        self._bell.ring()

    def measure(self) -> None:
        """For the metrics, now and then."""

    async def converse(self, open_link: Callable[[float], None]) -> None:
        """Give it to the core by ``open_link``, and talk until either side ends it or it breaks; `reason` says why."""
        runner = self._runner
        runner.connections[self.name] = self
        try:
            await runner.tell(open_link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_for_ever)
                await self._send_until_the_end()
                nursery.cancel_scope.cancel()
        finally:
            runner.connections.pop(self.name, None)
            runner.core.ended(self.name, trio.current_time())

    async def _receive_for_ever(self) -> None:
        while True:
            try:
                message = wire.decode(await self._duplex.receive())
            except (UnavailableError, DecodeError) as error:
                self._outbox.clear()
                self.end(str(error), failed=True)
                return
            await self._runner.tell(lambda now, message=message: self._hear(message, now))  # type: ignore[misc]

    def _hear(self, message: AnyMessage, now: float) -> None:
        self._runner.core.received(self.name, message, now)

    async def _send_until_the_end(self) -> None:
        while True:
            ring = self._bell.next_ring()
            try:
                await self._send_what_there_is()
            except UnavailableError as error:
                self.end(str(error), failed=True)
                return
            if self._is_ending and not self._outbox:
                return
            if not self._outbox:
                await ring.wait()

    async def _send_what_there_is(self) -> None:
        while self._outbox:
            await self._duplex.send(self._outbox.popleft())
        core = self._runner.core.serving(self.name)
        while core is not None and self._states and self._states[0][0] <= core.sent:
            await self._duplex.send(wire.encode(self._states.popleft()[1]))
