"""The flashblock plane's shell: carries out what the sequence machine says, between engine, EL and log.

The engine calls the synchronous methods; none of them waits. Behind them one task feeds the log, in
order, and each validation has a task of its own (the machine allows one per round).
"""

import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

import trio

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import EquivocationError, LogError, RemoteError, UnavailableError
from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.health import HealthFact
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus
from appliance.flashblocks.commands import (
    Append,
    Command,
    Dropped,
    Evidence,
    Fate,
    Fenced,
    LogCommand,
    Paused,
    Reason,
    Sealed,
    SetState,
    Validate,
)
from appliance.flashblocks.ingest import DATA_TIMEOUT_S, BuilderSource, Ingest
from appliance.flashblocks.metrics import FlashblockMetrics
from appliance.flashblocks.ports import BlockValidator, Build, Connect, FlashblockSink
from appliance.flashblocks.sequence import FlashblockSequence
from appliance.flashblocks.stream_health import MIN_BUILDING_S, StreamHealth
from appliance.flashblocks.unfinished import MAX_UNFINISHED, Unfinished
from appliance.net.tls import client_context
from appliance.net.websocket_client import messages
from appliance.telemetry.logging import get_logger
from appliance.wire.flashblock import MAX_MESSAGE_BYTES, decode

log = get_logger("flashblocks")

DRAIN_S: Final = 1.0
"""How long, in seconds, the end waits for a log that is slow: subscribers are to be told to leave after it."""

PAUSED_EVERY_S: Final = 1.0
"""The shortest time between two warnings about streams of one builder that subscribers do not follow."""

MAX_FRAMES_PER_S: Final = 1000.0
"""A builder sends some ten; a large message in fragments of 4 KiB has fifty. A thousand cost 5 % of a core."""


@dataclass(frozen=True, slots=True)
class FlashblockSettings:
    """``execution``: show only what the EL called VALID. The rest are rollup-boost's timings, in seconds."""

    execution: bool = True
    ping_interval_s: float = 0.5
    pong_timeout_s: float = 1.5
    connect_timeout_s: float = 5.0
    data_timeout_s: float = DATA_TIMEOUT_S
    min_building_s: float = MIN_BUILDING_S


class FlashblockService:
    """The builders' flashblocks on their way to the log. Implements the engine's port `FlashblockStream`.

    The methods for the engine work from the start, also while `run` does not. When `run` is started again
    after a crash, what was being appended or validated is done again; both are idempotent.
    """

    def __init__(
        self,
        settings: FlashblockSettings,
        sources: Iterable[BuilderSource],
        *,
        sink: FlashblockSink,
        validator: BlockValidator,
        metrics: FlashblockMetrics,
        connect: Connect | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        sources = tuple(sources)
        self._sequence = FlashblockSequence(execution=settings.execution)
        self._sink = sink
        self._validator = validator
        self._metrics = metrics
        self._clock = clock
        self._execution = settings.execution
        self._health = StreamHealth([source.name for source in sources], settings.min_building_s)
        metrics.stream_healthy.set(1)
        connect = connect or _connector(settings, tls=_tls_for(sources))
        self._ingests = {
            source.name: Ingest(
                source,
                connect=connect,
                deliver=self.flashblock_received,
                is_building=self._sequence.is_building,
                metrics=metrics,
                data_timeout_s=settings.data_timeout_s,
            )
            for source in sources
        }
        # Bounded by the machine: one append, and at most three states and one piece of evidence per round that it
        # remembers, and one validation per round. Nothing is dropped here. Work stays in until it is done.
        self._log_work: deque[LogCommand] = deque()
        self._validations: dict[int, Validate] = {}
        self._log_wakeup = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._recovered = False
        self._paused_at: dict[str, float] = {}  # of the last warning, by builder

    async def run(
        self,
        *,
        stopping: trio.Event | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read from the builders and feed the log until ``stopping``; then log what waits, within `DRAIN_S`."""
        await self._recover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed_log)
            for ingest in self._ingests.values():
                nursery.start_soon(ingest.run)
            for waiting in self._validations.values():
                nursery.start_soon(self._validate, waiting)
            self._nursery = nursery
            try:
                task_status.started()
                await (trio.Event() if stopping is None else stopping).wait()
            finally:
                self._nursery = None
            nursery.cancel_scope.cancel()
        await self._drain()

    async def _recover(self) -> None:
        """Take up what an earlier process has shown; once, and before this one appends anything."""
        if self._recovered:
            return
        self._recovered = True
        try:
            entries = await self._sink.unfinished(MAX_UNFINISHED)
        except LogError as error:
            log.error("what became of earlier payloads stays unknown", reason=str(error))
            return
        self._sequence.recover(map(_unfinished, entries))
        self._carry_out()

    def statistics(self) -> dict[str, object]:
        """The stream and its sources, as JSON-able values."""
        sources = {name: ingest.statistics() for name, ingest in self._ingests.items()}
        mode = "execution" if self._execution else "structural"
        return {"validation": mode, "stream": self._sequence.statistics(), "sources": sources}

    # What the engine calls.

    def build_started(self, build: Build) -> None:
        """A forkchoice_updated with attributes goes out. It replaces every build before it."""
        self._sequence.build_started(build, self._clock())
        self._carry_out()

    def build_confirmed(self, build_id: BuildId) -> None:
        """The EL answered VALID with a payload id: the build's stream may be published."""
        self._sequence.build_confirmed(build_id)
        self._carry_out()

    def build_abandoned(self, build_id: BuildId) -> None:
        """The EL refused the build, or a newer one replaced it before getPayload came."""
        self._sequence.build_abandoned(build_id)
        self._carry_out()

    def builder_joined(self, build_id: BuildId, builder: str, payload_id: PayloadId) -> None:
        """``builder`` answered with its own payload id; before or after `build_confirmed`, or late."""
        self._sequence.builder_joined(build_id, builder, payload_id)
        self._carry_out()

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        """Fence the stream and answer what was handed to the log so far, assembled; idempotent.

        None for a build that is not known, that has no stream, or whose stream cannot be assembled.
        """
        sealed = self._sequence.seal(build_id)
        self._carry_out()
        return sealed

    def payload_returned(self, build_id: BuildId, block_hash: str, *, holds_all: bool = False) -> None:
        """getPayload was answered with the block of this hash."""
        self._sequence.payload_returned(build_id, block_hash, holds_all=holds_all)
        self._carry_out()

    def head_changed(self, block_hash: str, block_number: int | None) -> None:
        """The EL took ``block_hash`` as its head: payloads land or are dropped by it."""
        self._sequence.head_changed(block_hash, block_number)
        self._carry_out()

    def health(self) -> HealthFact:
        """Whether subscribers are shown flashblocks of the blocks that are built here."""
        fact = self._health.fact(self._connected(), self._clock())
        self._metrics.stream_healthy.set(fact.healthy)
        return fact

    # What the builders send.

    def flashblock_received(self, builder: str, flashblock: Flashblock) -> None:
        """A flashblock came in over ``builder``'s connection."""
        self._metrics.messages_processed.inc()
        self._sequence.flashblock(builder, flashblock, self._clock())
        self._carry_out()

    # Carrying out.

    def _carry_out(self) -> None:
        for command in self._sequence.take_commands():
            self._dispatch(command)

    def _dispatch(self, command: Command) -> None:
        match command:
            case Append() | SetState() | Evidence():
                self._log_work.append(command)
                self._log_wakeup.set()
            case Validate():
                self._validations[command.validation_id] = command
                if self._nursery is not None:
                    self._nursery.start_soon(self._validate, command)
            case Dropped():
                self._metrics.count_dropped(command)
                _log_dropped(command)
            case Paused():
                self._metrics.count_paused(command)
                self._log_paused(command)
            case Sealed():
                self._metrics.count_sealed(command)
            case Fate():
                self._metrics.count_fate(command)
                _log_fate(command)
            case Fenced():
                self._fenced(command)

    def _log_paused(self, note: Paused) -> None:
        """One warning a second for each builder: it can invent payloads faster than anybody reads."""
        now = self._clock()
        is_news = note.published or now - self._paused_at.get(note.builder, -inf) >= PAUSED_EVERY_S
        self._paused_at[note.builder] = now if is_news else self._paused_at[note.builder]
        level = logging.WARNING if is_news else logging.DEBUG
        fields = {"builder": note.builder, "payload_id": note.payload_id, "index": note.index}
        log.log(level, "flashblock stream paused", reason=str(note.reason), published=note.published, **fields)

    def _fenced(self, build: Fenced) -> None:
        held = self._sink.unseen(build.payload_id) if build.payload_id else 0
        if self._health.fenced(build, self._connected(), self._clock(), held=held):
            fact = self.health()
            if fact.healthy:
                log.info("flashblock stream is healthy again", reason=fact.reason)
            else:
                log.warning("flashblock stream is unhealthy", reason=fact.reason)

    def _connected(self) -> int:
        return sum(ingest.is_connected for ingest in self._ingests.values())

    async def _feed_log(self) -> None:
        while True:
            await self._empty_log_work()
            self._log_wakeup = trio.Event()
            await self._log_wakeup.wait()

    async def _empty_log_work(self) -> None:
        while self._log_work:
            await self._log(self._log_work[0])

    async def _drain(self) -> None:
        """What was handed to the log is in blocks that were answered, and how they fared can be told now only."""
        with trio.move_on_after(DRAIN_S) as scope:
            await self._empty_log_work()
        if scope.cancelled_caught:
            log.warning("not everything is logged at the end", left=len(self._log_work))

    async def _log(self, command: LogCommand) -> None:
        if isinstance(command, Append):
            failure = await self._append(command)
            self._log_work.popleft()
            self._told(failure)
        elif isinstance(command, Evidence):
            await self._keep(command)
            self._log_work.popleft()
        else:
            await self._set_state(command)
            self._log_work.popleft()

    def _told(self, failure: Reason | None) -> None:
        if failure is None:
            self._sequence.appended()
        else:
            self._sequence.append_failed(failure)
        self._carry_out()

    async def _append(self, command: Append) -> Reason | None:
        started = self._clock()
        try:
            await self._sink.append(command.flashblock, command.builder)
        except LogError as error:
            log.error("flashblock not logged", reason=str(error), **_place(command))
            return Reason.LOG_EQUIVOCATION if isinstance(error, EquivocationError) else Reason.LOG_FAILED
        now = self._clock()
        self._metrics.append_seconds.observe(now - started)
        self._metrics.publish_seconds.observe(now - command.arrived_at)
        self._metrics.published.labels(command.builder).inc()
        return None

    async def _keep(self, command: Evidence) -> None:
        try:
            await self._sink.append(command.flashblock, command.builder)
        except EquivocationError as error:
            log.warning("second body kept as evidence", builder=command.builder, reason=str(error))
        except LogError as error:
            log.error("second body not kept", builder=command.builder, reason=str(error))

    async def _set_state(self, command: SetState) -> None:
        try:
            await self._sink.set_state(command.payload_id, command.state, command.block_hash)
        except LogError as error:
            log.error(
                "payload state not logged",
                payload_id=command.payload_id,
                state=command.state,
                reason=str(error),
            )

    async def _validate(self, command: Validate) -> None:
        await trio.sleep(command.delay_s)
        status = await self._ask(command.payload)
        del self._validations[command.validation_id]
        self._sequence.validated(command.validation_id, status)
        self._carry_out()

    async def _ask(self, payload: AssembledPayload) -> PayloadStatus | None:
        started = self._clock()
        try:
            status = await self._validator.validate(payload)
        except (UnavailableError, RemoteError) as error:
            log.warning("flashblock not validated", payload_id=payload.payload_id, reason=str(error))
            return None
        self._metrics.validate_seconds.observe(self._clock() - started)
        return status


def _tls_for(sources: Iterable[BuilderSource]) -> ssl.SSLContext | None:
    is_needed = any(source.url.lower().startswith("wss:") for source in sources)
    return client_context() if is_needed else None


def _connector(settings: FlashblockSettings, *, tls: ssl.SSLContext | None) -> Connect:
    return partial(
        messages,
        ping_interval_s=settings.ping_interval_s,
        pong_timeout_s=settings.pong_timeout_s,
        connect_timeout_s=settings.connect_timeout_s,
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_frames_per_s=MAX_FRAMES_PER_S,
        ssl_context=tls,
    )


def _place(command: Append) -> dict[str, object]:
    flashblock = command.flashblock
    return {"payload_id": flashblock.payload_id, "index": flashblock.index, "builder": command.builder}


def _unfinished(entry: Entry) -> Unfinished:
    """The last flashblock of a payload names the block that it would have become."""
    try:
        flashblock = decode(entry.body, entry.encoding)
    except RemoteError:
        block_hash = None  # another version took it; then only a later head tells
    else:
        diff = flashblock.diff if isinstance(flashblock, Flashblock) else None
        block_hash = diff.block_hash.lower() if diff else None
    return Unfinished(entry.payload_id, entry.block_number, block_hash)


def _log_fate(note: Fate) -> None:
    if note.state is PayloadState.LANDED:
        log.info("payload landed", payload_id=note.payload_id, number=note.block_number)
    else:
        log.warning("payload dropped", payload_id=note.payload_id, number=note.block_number)


def _log_dropped(note: Dropped) -> None:
    log.debug(
        "flashblock dropped",
        reason=str(note.reason),
        builder=note.builder,
        payload_id=note.payload_id,
        index=note.index,
        count=note.count,
    )
