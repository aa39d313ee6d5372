"""Carries out what the multiplexer orders, and tells it what came of it.

A call to an upstream goes out at once, within the step that ordered it; its outcome is an event, which comes from
the task of the request where that waits for this call alone, else from a task of the call's own. Events are handled at
once and one after the other on the loop, so the machine needs no lock.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import trio

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.health import Health
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.afterwards import Afterwards
from appliance.engine.builder_link import BuilderLink
from appliance.engine.events import EL, Command, Event, Ticket
from appliance.engine.health_watch import HealthWatch
from appliance.engine.lanes import Parcel
from appliance.engine.metrics import EngineMetrics
from appliance.engine.observer import Observer
from appliance.engine.parcels import (
    NewPayloadBodies,
    parcel_of_announcement,
    parcel_of_copy,
    parcel_of_order,
)
from appliance.engine.payload_history import PayloadHistory
from appliance.engine.ports import FlashblockStream
from appliance.engine.upstream import Upstream, UpstreamCall
from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import Headers
from appliance.telemetry.logging import get_logger
from appliance.wire.engine import Call, GetPayload

log = get_logger("engine")

# What was relayed is read here once op-node has had the time to take it: where cores are few, the kernel would let
# op-node wait for the decoder.
_READING_S: Final = 0.002
JSON_HEADERS: Final = Headers({"content-type": ev.JSON})


class _Waiter:
    """One request of op-node while it waits for its reply."""

    __slots__ = ("done", "reply")

    def __init__(self) -> None:
        self.done: trio.Event | None = None  # where it waits for another task
        self.reply: ev.Reply | None = None

    def taken(self) -> ev.Reply:
        """The reply, which has come."""
        if self.reply is None:
            raise RuntimeError("no reply has come")
        return self.reply


class _Call:
    """A call that was begun, for the machine's ``call_id``."""

    __slots__ = ("_call", "call_id", "relays")

    def __init__(self, call_id: ev.CallId, call: UpstreamCall, *, relays: bool) -> None:
        self.call_id = call_id
        self._call = call
        self.relays = relays

    def count(self) -> None:
        """In metrics, once it is over."""
        self._call.count()

    async def outcome(self, early: EarlyAnswer | None = None) -> Event:
        """What came of it. A large answer that may be relayed goes to ``early`` as it comes."""
        watch = partial(_relay, early) if early is not None and self.relays else None
        try:
            response = await self._call.response(watch)
        except UnavailableError as error:
            return ev.Failed(self.call_id, str(error))
        content_type = response.headers.get("content-type", ev.JSON)
        return ev.Answered(self.call_id, self._call.upstream.origin, response.status, response.body, content_type)


def _relay(early: EarlyAnswer, status: int, size: int, so_far: memoryview) -> None:
    if status == 200:
        early.offer(status, JSON_HEADERS, size, so_far)


class Machine(Protocol):
    """What decides: the multiplexer, or the builder listener's arbiter."""

    @property
    def open_calls(self) -> int:
        """Calls to upstreams whose outcome has not come."""

    @property
    def head(self) -> str:
        """The block that was last taken as the head; empty before."""

    @property
    def mode(self) -> ExecutionMode:
        """How far builders are used."""

    def handle(self, event: Event, now: float) -> list[Command]:
        """What an event makes us do, in order; ``now`` in seconds, monotonic."""


class Executor:
    """The machine's hands. `run` must be running for `ask` to be answered.

    ``el`` is None for a machine that has none. With ``ignore_unhealthy``, builders that are ill get no part in the
    chain while the health is not 200 (rollup-boost's `ignore_unhealthy_builders`).
    """

    def __init__(
        self,
        machine: Machine,
        el: Upstream | None,
        builders: Sequence[Upstream],
        stream: FlashblockStream,
        health: HealthWatch,
        metrics: EngineMetrics,
        *,
        ignore_unhealthy: bool = False,
    ) -> None:
        self._machine = machine
        builders = [builder.switched(self._is_switched_off) for builder in builders]
        self._upstreams = {builder.name: builder for builder in builders}
        if el is not None:
            self._upstreams[EL] = el
        self._ignore_unhealthy = ignore_unhealthy
        self._links = {builder.name: BuilderLink(builder, self._dispatch, metrics) for builder in builders}
        self._stream = stream
        self._health = health
        self._observer = Observer(metrics)
        self._afterwards = Afterwards()
        # Without an EL it is the builders' answers that a request waits for: their orders give way to nobody.
        self._queue_at_once = el is None
        self._bodies = NewPayloadBodies()
        # Bounded by the server's connections: each request waits here once.
        self._waiting: dict[Ticket, _Waiter] = {}
        self._last_ticket = 0
        self._begun: list[_Call] = []  # by the event that is being taken in
        self._nursery: trio.Nursery | None = None
        health.listen(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make calls until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._afterwards.run)
            for link in self._links.values():
                nursery.start_soon(link.run)
            task_status.started()
            await trio.sleep_forever()

    async def ask(self, call: Call, identifier: bytes, body: bytes, early: EarlyAnswer | None = None) -> ev.Reply:
        """Put one call of op-node to the machine and wait for its reply.

        Of a large reply that only passes through here ``early`` gets each part as it comes.
        """
        self._last_ticket += 1
        ticket = Ticket(self._last_ticket)
        waiter = self._waiting[ticket] = _Waiter()
        self._afterwards.request_came()
        try:
            calls = self._take_in(ev.Requested(ticket, call, identifier, body))
            if len(calls) == 1 and (calls[0].relays or not isinstance(call, GetPayload)):
                # Nothing else can bring the reply: awaited here, it costs no task and no turn of the loop.
                await self._see_through(calls[0], waiter, early)
            else:
                self._let_run(calls)
            if waiter.reply is None:
                waiter.done = trio.Event()
                await waiter.done.wait()
        finally:
            del self._waiting[ticket]
            self._afterwards.request_answered()
        return waiter.taken()

    def health_changed(self, status: Health, unhealthy: frozenset[str]) -> None:
        """Tell the machine who is ill."""
        ignored = unhealthy if self._ignore_unhealthy and status is not Health.OK else frozenset()
        self._dispatch(ev.HealthChanged(unhealthy, ignored))

    def builder_probed(self, builder: str, head: int | None) -> None:
        """What a health probe found may mean that the builder has forgotten its settings."""
        self._links[builder].probed(head)

    def set_mode(self, mode: ExecutionMode) -> None:
        """Throw the switch: it counts when this returns."""
        self._dispatch(ev.ModeChanged(mode))
        self._health.use_builders(mode is not ExecutionMode.DISABLED)

    def _is_switched_off(self) -> bool:
        return self._machine.mode is ExecutionMode.DISABLED

    @property
    def mode(self) -> ExecutionMode:
        """The mode that the next build starts in."""
        return self._machine.mode

    @property
    def history(self) -> PayloadHistory:
        """The last decisions, none of them left out."""
        self._afterwards.do_all()
        return self._observer.history

    def statistics(self) -> dict[str, object]:
        """The machine, the blocks that were returned, and the builders' lanes."""
        self._afterwards.do_all()
        return {
            "head": self._machine.head,
            "blocks": self._observer.statistics(),
            "open_calls": self._machine.open_calls,
            "waiting_requests": len(self._waiting),
            "builders": [link.statistics() for link in self._links.values()],
        }

    def _dispatch(self, event: Event) -> None:
        self._let_run(self._take_in(event))

    def _take_in(self, event: Event) -> list["_Call"]:
        """Tell the machine, and carry out what it orders; answers the calls that this has begun."""
        pending: deque[Event] = deque([event])
        while pending:
            for command in self._machine.handle(pending.popleft(), trio.current_time()):
                pending.extend(self._carry_out(command))
        begun, self._begun = self._begun, []
        return begun

    def _let_run(self, calls: list["_Call"]) -> None:
        for call in calls:
            self._tasks.start_soon(self._follow, call)

    async def _follow(self, call: "_Call") -> None:
        """See a call through, and of those that its outcome leads to the first: a task less to start."""
        following: _Call | None = call
        while following is not None:
            outcome = await following.outcome()
            self._afterwards.put(following.count)
            calls = self._take_in(outcome)
            following = calls.pop(0) if calls else None
            self._let_run(calls)

    async def _see_through(self, call: "_Call", waiter: "_Waiter", early: EarlyAnswer | None) -> None:
        try:
            outcome = await call.outcome(early)
            if early is not None and early.begun and isinstance(outcome, ev.Answered):
                await early.flush(memoryview(outcome.body))
                await trio.sleep(_READING_S)
        except trio.Cancelled:  # only when the server stops at once; the machine still learns of each call's end
            self._dispatch(ev.Failed(call.call_id, "the appliance is stopping"))
            raise
        self._afterwards.put(call.count)
        self._dispatch(outcome)
        if early is not None and early.begun and isinstance(outcome, ev.Answered) and waiter.reply is not None:
            waiter.reply = replace(waiter.reply, body=outcome.body)  # what is out already

    def _carry_out(self, command: Command) -> Iterable[Event]:
        """Answers the events that a command makes at once."""
        match command:
            case ev.Reply():
                self._reply(command)
            case ev.Send() | ev.Validate() | ev.WakeAt():
                return self._start(command)
            case ev.SendInOrder() | ev.Copy() | ev.Announce():
                if self._queue_at_once:
                    return self._queue(command)
                self._afterwards.put(partial(self._queue_later, command))
            case ev.Seal(build_id):
                return [ev.Sealed(build_id, self._seal(build_id))]
            case (
                ev.BlockReturned()
                | ev.CandidateLost()
                | ev.BuilderAbsent()
                | ev.Decided()
                | ev.BlockCameLate()
                | ev.OrderTurnedAway()
                | ev.HeadTurnedAway()
            ):
                self._afterwards.put(partial(self._observer.observe, command))
            case ev.Produced():
                self._health.produced(command)
            case _:
                self._tell_stream(command)
        return ()

    def _reply(self, reply: ev.Reply) -> None:
        waiter = self._waiting.get(reply.ticket)
        if waiter is not None:  # else the connection is gone, and the reply with it
            waiter.reply = reply
            if waiter.done is not None:
                waiter.done.set()

    def _start(self, command: ev.Send | ev.Validate | ev.WakeAt) -> Iterable[Event]:
        match command:
            case ev.Send(call_id, name, body, pass_through, relay):
                return self._begin(call_id, self._upstreams[name], body, pass_through=pass_through, relay=relay)
            case ev.Validate():
                return self._validate(command)
            case ev.WakeAt():
                # The deadline is a point in time: it does not matter when its task starts.
                self._afterwards.put(partial(self._tasks.start_soon, self._wake, command))
                return ()

    def _validate(self, command: ev.Validate) -> Iterable[Event]:
        try:
            body = self._bodies.of(command.block, command.parent_beacon_block_root)
        except RemoteError as error:  # what a builder wrote costs its block, and nothing else
            return [ev.Failed(command.call_id, str(error))]
        return self._begin(command.call_id, self._upstreams[EL], body)

    def _begin(
        self,
        call_id: ev.CallId,
        upstream: Upstream,
        body: bytes,
        *,
        pass_through: bool = False,
        relay: bool = False,
    ) -> Iterable[Event]:
        """The call goes out now; who took the event in sees to its end."""
        try:
            call = upstream.begin(body, pass_through=pass_through)
        except UnavailableError as error:
            return [ev.Failed(call_id, str(error))]
        self._begun.append(_Call(call_id, call, relays=relay))
        return ()

    @property
    def _tasks(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the engine does not run")
        return self._nursery

    async def _wake(self, command: ev.WakeAt) -> None:
        await trio.sleep_until(command.at)
        self._dispatch(ev.DeadlinePassed(command.build_id))

    def _queue_later(self, command: ev.SendInOrder | ev.Copy | ev.Announce) -> None:
        for event in self._queue(command):
            self._dispatch(event)

    def _queue(self, command: ev.SendInOrder | ev.Copy | ev.Announce) -> Iterable[Event]:
        match command:
            case ev.SendInOrder():
                return self._links[command.builder].put(parcel_of_order(command), in_order=True)
            case ev.Copy():
                return self._to_all(parcel_of_copy(command), command.skip, in_order=command.in_order)
            case ev.Announce():
                return self._to_all(parcel_of_announcement(command, self._bodies), command.skip, in_order=True)

    def _to_all(self, parcel: Parcel, skip: frozenset[str], *, in_order: bool) -> list[Event]:
        links = [link for name, link in self._links.items() if name not in skip]
        return [event for link in links for event in link.put(parcel, in_order=in_order)]

    # The stream is another plane, called on the way of a block. What fails in it costs flashblocks, never
    # a block, so this is a boundary: its bug is logged, and the machine goes on without it.

    def _seal(self, build_id: BuildId) -> AssembledPayload | None:
        try:
            return self._stream.seal(build_id)
        except Exception:
            log.exception("flashblock stream failed", call="seal")
            return None

    def _tell_stream(self, command: ev.StreamCommand) -> None:
        try:
            self._notify(command)
        except Exception:
            log.exception("flashblock stream failed", call=type(command).__name__)

    def _notify(self, command: ev.StreamCommand) -> None:
        match command:
            case ev.BuildStarted(build):
                self._stream.build_started(build)
            case ev.BuildConfirmed(build_id):
                self._stream.build_confirmed(build_id)
            case ev.BuildAbandoned(build_id):
                self._stream.build_abandoned(build_id)
            case ev.BuilderJoined(build_id, builder, payload_id):
                self._stream.builder_joined(build_id, builder, payload_id)
            case ev.PayloadReturned(build_id, block_hash, holds_all):
                self._stream.payload_returned(build_id, block_hash, holds_all=holds_all)
            case ev.HeadChanged(block_hash, block_number):
                self._stream.head_changed(block_hash, block_number)
            case ev.Seal():
                raise RuntimeError("Seal wants an answer")
