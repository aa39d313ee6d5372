"""One builder's websocket: connect, read, decode, deliver; reconnect for ever.

rollup-boost's numbers: ping every 500 ms, pong within 1500 ms, connect within 5 s, reconnect after 10 ms
doubling to 5 s. On top, a data deadline for half-open sockets whose other end still answers pings: it
counts only time in which the builder was building, because a follower's builder is silent for hours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import trio

from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.domain.flashblocks import Encoding, EndOfPayload, Flashblock
from appliance.flashblocks.metrics import FlashblockMetrics
from appliance.flashblocks.ports import Connect
from appliance.net.backoff import Backoff
from appliance.telemetry.logging import get_logger
from appliance.wire.flashblock import MAX_MESSAGE_BYTES, MessageTooLarge, decode_text, encoding_of, plain_text

log = get_logger("flashblocks")

DATA_TIMEOUT_S: Final = 3.0
"""Building time without a message after which the connection is renewed: at 1-2 s blocks, two of them."""

_WATCH_INTERVAL_S: Final = 0.25
_LARGE_TEXT_BYTES: Final = 256 * 1024  # takes about 1 ms to decode, which is as long as the loop may be held

BUDGET_BYTES_PER_S: Final = 4 * 1024 * 1024
"""What a builder may send for long, unfolded, in bytes per second. Production has about 1 MB per second."""

BUDGET_BURST_BYTES: Final = 16 * 1024 * 1024
"""What it may send at once, unfolded: more than all flashblocks of a block, also when a pause held them up."""

LEAST_COST_BYTES: Final = 4096
"""What the smallest message counts as: so a thousand a second, which cost 5 % of a core. Production has five."""

CONNECTION_COST_BYTES: Final = 256 * 1024
"""What a connection counts as: so 16 a second for long, however quickly a builder ends them with a message in each."""


@dataclass(frozen=True, slots=True)
class BuilderSource:
    """Where a builder's flashblocks come from. ``name`` is the engine's name for the builder."""

    name: str
    url: str


class DataDeadline:
    """Adds up the building time since the last message, in seconds."""

    def __init__(self, timeout_s: float = DATA_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._silent_s = 0.0

    def restart(self) -> None:
        """A message came, or the connection is new."""
        self._silent_s = 0.0

    def passes(self, elapsed_s: float, *, is_building: bool) -> bool:
        """``elapsed_s`` went by without a message; whether that is now too long."""
        if is_building:
            self._silent_s += elapsed_s
        return self._silent_s > self._timeout_s


class ByteBudget:
    """How much a builder may make us unfold: a bucket that fills by the second. Not renewed by reconnecting."""

    def __init__(self) -> None:
        self._left = 0.0
        self._at = -inf  # so it is full at first

    def spend(self, size: int, now: float) -> bool:
        """Take ``size`` bytes, at ``now`` seconds; false when so many are not left."""
        refilled = self._left + (now - self._at) * BUDGET_BYTES_PER_S
        self._left, self._at = min(refilled, float(BUDGET_BURST_BYTES)), now
        if size > self._left:
            return False
        self._left -= size
        return True

    @property
    def is_ample(self) -> bool:
        """Whether there was so much left after the last one that another burst would pass."""
        return self._left >= BUDGET_BURST_BYTES / 4


class Ingest:
    """The connection to one builder. ``deliver`` gets each flashblock, synchronously and in order."""

    def __init__(
        self,
        source: BuilderSource,
        *,
        connect: Connect,
        deliver: Callable[[str, Flashblock], None],
        is_building: Callable[[str], bool],
        metrics: FlashblockMetrics,
        data_timeout_s: float = DATA_TIMEOUT_S,
    ) -> None:
        self._source = source
        self._connect = connect
        self._deliver = deliver
        self._is_building = is_building
        self._deadline = DataDeadline(data_timeout_s)
        self._budget = ByteBudget()
        self._backoff = Backoff()
        self._scope: trio.CancelScope | None = None
        self._last_error: str | None = None
        self._is_garbled = False
        self._last_message_at: float | None = None
        self._decode_errors = metrics.decode_errors.labels(source.name)
        self._messages = metrics.messages_received.labels(source.name)
        self._reconnects = metrics.reconnect_attempts.labels(source.name)
        self._status = metrics.connection_status.labels(source.name)
        self._counts = {"messages": 0, "decode_errors": 0, "payload_ends": 0, "reconnects": 0}

    def __repr__(self) -> str:
        state = "connected" if self._scope else "not connected"
        return f"<Ingest {self._source.name} {self._source.url} {state}>"

    @property
    def is_connected(self) -> bool:
        """Whether the builder's websocket is open."""
        return self._scope is not None

    async def run(self) -> None:
        """Serve until cancelled."""
        self._status.set(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._stay_connected)

    def statistics(self) -> dict[str, object]:
        """The connection, as JSON-able values; ages in seconds."""
        last = self._last_message_at
        return {
            "url": self._source.url,
            "connected": self._scope is not None,
            "last_message_age_s": None if last is None else round(trio.current_time() - last, 3),
            "last_error": self._last_error,
            **self._counts,
        }

    async def _stay_connected(self) -> None:
        while True:
            await self._converse()
            await trio.sleep(self._backoff.next())
            self._reconnects.inc()
            self._counts["reconnects"] += 1

    async def _converse(self) -> None:
        """One connection, from connect to its end; only bugs and cancellation come out of it."""
        with trio.CancelScope() as scope:
            try:
                async with self._connect(self._source.url) as messages:
                    self._opened(scope)
                    async for message, is_binary in messages:
                        await self._received(message, encoding_of(message, is_binary=is_binary))
                self._ended("closed by the builder")
            except (UnavailableError, RemoteError) as error:
                self._ended(str(error))
            finally:
                self._scope = None
                self._status.set(0)
        if scope.cancelled_caught:
            self._ended("no message while the builder was building")

    def _opened(self, scope: trio.CancelScope) -> None:
        if not self._budget.spend(CONNECTION_COST_BYTES, trio.current_time()):
            raise RemoteError("more flashblock connections than a builder may make us open")
        self._scope = scope
        self._deadline.restart()
        self._status.set(1)
        log.info("flashblock source connected", builder=self._source.name, url=self._source.url)

    def _ended(self, reason: str) -> None:
        if reason != self._last_error:  # a builder that is down for hours is one line, not one per attempt
            log.warning("flashblock source lost", builder=self._source.name, reason=reason)
        self._last_error = reason

    async def _received(self, message: bytes, encoding: Encoding) -> None:
        self._deadline.restart()
        self._last_message_at = trio.current_time()
        self._messages.inc()
        self._counts["messages"] += 1
        try:
            decoded = await self._decode(message, encoding)
        except DecodeError as error:
            self._refused(error)
            return
        self._is_garbled = False
        if isinstance(decoded, EndOfPayload):
            self._counts["payload_ends"] += 1
        else:
            self._deliver(self._source.name, decoded)

    async def _decode(self, message: bytes, encoding: Encoding) -> Flashblock | EndOfPayload:
        """The next message is read only when this one is done, so a thread keeps the order."""
        try:
            text = await _plain_text(message, encoding)
        except DecodeError as error:
            self._spend(MAX_MESSAGE_BYTES if isinstance(error, MessageTooLarge) else _LARGE_TEXT_BYTES)
            raise
        self._spend(len(text))
        if len(text) > _LARGE_TEXT_BYTES:
            return await trio.to_thread.run_sync(decode_text, text, message, encoding)
        return decode_text(text, message, encoding)

    def _spend(self, size: int) -> None:
        """Only a builder that keeps well within its budget is reconnected to quickly."""
        if not self._budget.spend(max(size, LEAST_COST_BYTES), trio.current_time()):
            raise RemoteError("more flashblock bytes or messages than a builder may send")
        if self._budget.is_ample:
            self._backoff.reset()
        self._last_error = None

    def _refused(self, error: DecodeError) -> None:
        self._decode_errors.inc()
        self._counts["decode_errors"] += 1
        if not self._is_garbled:  # one line for a run of them; the counter has them all
            log.warning("flashblock message refused", builder=self._source.name, reason=str(error))
        self._is_garbled = True

    async def _watch(self) -> None:
        while True:
            await trio.sleep(_WATCH_INTERVAL_S)
            is_building = self._is_building(self._source.name)
            too_long = self._deadline.passes(_WATCH_INTERVAL_S, is_building=is_building)
            if too_long and self._scope is not None:
                self._scope.cancel()


async def _plain_text(message: bytes, encoding: Encoding) -> bytes:
    """In a thread when there is much of it: how much is known only when it has been unfolded."""
    try:
        return plain_text(message, encoding, max_bytes=_LARGE_TEXT_BYTES)
    except MessageTooLarge:
        return await trio.to_thread.run_sync(plain_text, message, encoding)
