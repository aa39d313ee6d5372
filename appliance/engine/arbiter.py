"""The builder listener's machine: one builder towards several sequencers, n builders behind it. Pure.

There is no execution client here. Nothing is validated: each sequencer has its own EL do that.

    event                               commands
    ----------------------------------  ---------------------------------------------------------------
    forkchoiceUpdated with attributes   BuildStarted, SendInOrder to all builders
      the same head and attributes      the same build: joins its answer, or gets it again; builders that were
                                        absent are asked again while it is being built
      others on a parent on which one   nobody is asked: Reply VALID without a payload id, OrderTurnedAway. The
        is being built                  sequencer takes its EL's block; the first one keeps its builders
      builder: payload id, the first    Reply to all that wait, BuildConfirmed: this is the build's payload id
      builder: payload id, each         BuilderJoined where it is the build's, for only such flashblocks can be
                                        recognised by those who were answered it
      nobody has one                    Reply with the best answer (the order below), BuildAbandoned
    getPayload of a build               Seal, then Send to each builder under its own id, WakeAt the deadline
      builder: block                    an offer, if it is the block that was asked for
      nothing better is to come, or     Reply with the best offer; asked again: the same
        DeadlinePassed
    getPayload of no build of ours      Reply -38001
    newPayload, forkchoiceUpdated       SendInOrder to all builders; Reply with the first VALID, or when all have
      without attributes                answered (of healthy builders, if there are any) with the best answer
      forkchoiceUpdated to a block that nobody is asked: Reply VALID, HeadTurnedAway. A sequencer that catches up would
        is lower than the parent of a   take the builders' heads back, and the leader's build from them. Where it is the
        build that is not finished      leader that goes back, it orders there next, and the order takes them along
    mirrored methods                    Send to the first healthy builder, whose answer is the Reply; Copy to all others
    all others                          Send to the first healthy builder

Answers that disagree: VALID is best, then SYNCING or ACCEPTED, then INVALID, an error, none at all. One builder that
calls a block INVALID does not outweigh one that has yet to look.

A build is being built until its getPayload, until a forkchoiceUpdated that was VALID moves the head away from its
parent, or for `BUILDING_S`: a sequencer that was lost must not keep the next one from the builders.

The best offer: blocks of healthy builders first; of these such that hold what subscribers were promised (the owner's
finished block, then the flashblocks themselves), then by policy. Only healthy builders that could still do better are
waited for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId, PayloadStatus
from appliance.engine import events as ev
from appliance.engine.events import Command
from appliance.engine.outcomes import Outcome, apology, body_of
from appliance.engine.policies import Policy
from appliance.engine.pool_choice import PoolChoice
from appliance.engine.shared_builds import SharedBuild, SharedBuilds
from appliance.wire.engine import ForkchoiceUpdated, GetPayload, Mirrored, NewPayload
from appliance.wire.engine_answers import ForkchoiceResult, RefusedError, decode_forkchoice, decode_verdict
from appliance.wire.engine_bodies import forkchoice_without_build, get_payload_request
from appliance.wire.jsonrpc import encode_error, readdress

UNKNOWN_PAYLOAD = -38001
_DOUBT = frozenset({PayloadStatus.SYNCING, PayloadStatus.ACCEPTED})


@dataclass(slots=True)
class Question:
    """One request that all builders were asked. ``answers`` by rank, best first; ``waiting`` still may answer."""

    request: ev.Requested
    head: str  # that it sets, when it is a forkchoiceUpdated
    waiting: set[str]
    best: tuple[int, bytes] | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """A builder's answer to a question."""

    question: Question
    builder: str


@dataclass(frozen=True, slots=True)
class _Ordered:
    """A builder's answer to an order to build."""

    build: SharedBuild
    builder: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A builder's answer to getPayload."""

    build: SharedBuild
    builder: str


@dataclass(frozen=True, slots=True)
class _Passed:
    """The answer of the one builder that was asked."""

    request: ev.Requested


_Purpose = _Asked | _Ordered | _Wanted | _Passed


class Arbiter:
    """The machine. ``builders`` in configured order; ``build_ids`` numbers the builds, also across restarts."""

    def __init__(
        self,
        builders: tuple[str, ...],
        policy: Policy,
        builder_deadline_s: float,
        build_ids: Iterator[int] | None = None,
    ) -> None:
        self._builders = builders
        self._deadline_s = builder_deadline_s
        self._builds = SharedBuilds(build_ids or count(1))
        self._choice = PoolChoice(builders, policy)
        # Bounded by the shell: each call ends within its upstream's timeout, lanes drop what is too much.
        self._calls: dict[ev.CallId, _Purpose] = {}
        self._last_call = 0
        self._head = ""
        self._unhealthy: frozenset[str] = frozenset()

    @property
    def open_calls(self) -> int:
        """Calls to builders whose outcome has not come."""
        return len(self._calls)

    @property
    def head(self) -> str:
        """The block that a builder last took as its head at a sequencer's word; empty before."""
        return self._head

    @property
    def mode(self) -> ExecutionMode:
        """Builders are always used: each sequencer behind us has a switch of its own."""
        return ExecutionMode.ENABLED

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """What an event makes us do, in order; ``now`` in seconds, monotonic."""
        match event:
            case ev.Requested():
                return self._on_request(event, now)
            case ev.Answered() | ev.Failed():
                return self._on_outcome(event, now)
            case ev.Sealed(build_id, assembled):
                build = self._builds.by_id(build_id)
                return self._ask_for_blocks(build, assembled, now) if build else []
            case ev.DeadlinePassed(build_id):
                build = self._builds.by_id(build_id)
                return self._choice.on_deadline(build, now) if build else []
            case ev.HealthChanged(unhealthy, _):
                self._unhealthy = unhealthy
                return []
            case ev.ModeChanged():
                return []

    def _on_request(self, request: ev.Requested, now: float) -> list[Command]:
        match request.call:
            case ForkchoiceUpdated() as call if call.attributes is not None:
                return self._order(request, call, now)
            case ForkchoiceUpdated(head=head):
                return self._forkchoice(request, head, now)
            case NewPayload() as call:
                self._builds.remember_block(call)
                return self._ask_all(request, "", None)
            case GetPayload() as call:
                return self._get_payload(request, call, now)
            case Mirrored(method):
                return self._mirror(request, method)
            case _:
                return [self._pass_on(request)]

    def _on_outcome(self, event: Outcome, now: float) -> list[Command]:
        match self._calls.pop(event.call_id, None):
            case _Asked(question, builder):
                return self._answered(question, builder, event)
            case _Ordered(build, builder):
                return self._order_answered(build, builder, event, now)
            case _Wanted(build, builder):
                return self._choice.on_block(build, builder, event, now)
            case _Passed(request):
                return [_passed_on(request, event)]
            case None:
                return []

    def _open(self, purpose: _Purpose) -> ev.CallId:
        self._last_call += 1
        call_id = ev.CallId(self._last_call)
        self._calls[call_id] = purpose
        return call_id

    # --- questions to all ---

    def _forkchoice(self, request: ev.Requested, head: str, now: float) -> list[Command]:
        build = self._builds.beyond(head, now)
        if build is None:
            return self._ask_all(request, head, "forkchoice")
        reason = f"build {build.build_id} is on a higher block"
        body = forkchoice_without_build(request.identifier, head)
        return [ev.Reply(request.ticket, body), ev.HeadTurnedAway(head, reason)]

    def _ask_all(self, request: ev.Requested, head: str, kind: str | None) -> list[Command]:
        counted = [name for name in self._builders if name not in self._unhealthy] or self._builders
        question = Question(request, head, set(counted))
        return [
            ev.SendInOrder(self._open(_Asked(question, name)), name, request.body, builds=False, latest_only=kind)
            for name in self._builders
        ]

    def _answered(self, question: Question, builder: str, outcome: Outcome) -> list[Command]:
        question.waiting.discard(builder)
        if question.done:
            return []
        answer = _rank(outcome, is_forkchoice=bool(question.head))
        if question.best is None or answer[0] < question.best[0]:
            question.best = answer
        if question.waiting and answer[0] != 0:
            return []
        question.done = True
        return [_reply(question.request, question.best), *self._head_of(question)]

    def _head_of(self, question: Question) -> list[Command]:
        is_valid = question.best is not None and question.best[0] == 0
        return self._move_head(question.head) if question.head and is_valid else []

    def _move_head(self, head: str) -> list[Command]:
        if head == self._head:
            return []
        self._head = head
        return [ev.HeadChanged(head, self._builds.number_of(head)), *_abandoned(self._builds.leave(head))]

    # --- orders to build ---

    def _order(self, request: ev.Requested, call: ForkchoiceUpdated, now: float) -> list[Command]:
        build = self._builds.same(call)
        if build is not None:
            return self._join(build, request)
        rival = self._builds.rival(call, now)
        if rival is not None:
            reason = f"build {rival.build_id} on it is {now - rival.started_at:.3f} s old"
            body = forkchoice_without_build(request.identifier, call.head)
            return [ev.Reply(request.ticket, body), ev.OrderTurnedAway(call.head, reason)]
        abandoned = _abandoned(self._builds.unfinished())
        build = self._builds.start(call, self._builders, now)
        build.unanswered.append(request)
        return [*abandoned, ev.BuildStarted(build.build), *self._order_from(build, self._builders, request.body)]

    def _join(self, build: SharedBuild, request: ev.Requested) -> list[Command]:
        again = tuple(build.absent) if build.is_building else ()
        for name in again:
            del build.absent[name]
        asked = self._order_from(build, again, request.body)
        if build.answer:
            return [ev.Reply(request.ticket, _readdressed(build.answer, request.identifier)), *asked]
        build.unanswered.append(request)
        return asked

    def _order_from(self, build: SharedBuild, builders: Iterable[str], body: bytes) -> list[Command]:
        return [ev.SendInOrder(self._open(_Ordered(build, name)), name, body) for name in builders]

    def _order_answered(self, build: SharedBuild, builder: str, outcome: Outcome, now: float) -> list[Command]:
        try:
            result = decode_forkchoice(body_of(outcome))
        except (RemoteError, UnavailableError) as error:
            return self._absent(build, builder, str(error), outcome, now)
        if result.status is not PayloadStatus.VALID or result.payload_id is None:
            return self._absent(build, builder, _without_id(builder, result), outcome, now)
        build.joined[builder] = result.payload_id
        commands = [] if build.answer else self._confirm(build, result.payload_id, body_of(outcome))
        if result.payload_id == build.payload_id:
            commands.append(ev.BuilderJoined(build.build_id, builder, result.payload_id))
        if build.is_choosing:
            commands.append(self._want(build, builder))
        return commands

    def _confirm(self, build: SharedBuild, payload_id: PayloadId, body: bytes) -> list[Command]:
        build.answer = body
        self._builds.name(build, payload_id)
        askers, build.unanswered = build.unanswered, []
        replies: list[Command] = [ev.Reply(asker.ticket, _readdressed(body, asker.identifier)) for asker in askers]
        moved = self._move_head(build.order.parent_hash)
        return [*replies, *moved, ev.BuildConfirmed(build.build_id)]

    def _absent(self, build: SharedBuild, builder: str, reason: str, outcome: Outcome, now: float) -> list[Command]:
        build.absent[builder] = reason
        build.refusals[builder] = _rank(outcome, is_forkchoice=True)
        commands: list[Command] = [ev.BuilderAbsent(builder, reason)]
        if build.refusals[builder][0] != 0:  # else it only declined (reputation.py)
            commands.append(ev.Produced(builder, ok=False, reason=reason))
        if build.is_choosing:
            return [*commands, *self._choice.on_absent(build, builder, now)]
        if build.answer or len(build.absent) < len(self._builders):
            return commands
        askers, build.unanswered, build.failed = build.unanswered, [], True
        best = min(build.refusals.values())
        replies = [_reply(asker, best) for asker in askers]
        return [*commands, *replies, ev.BuildAbandoned(build.build_id)]

    # --- getPayload ---

    def _get_payload(self, request: ev.Requested, call: GetPayload, now: float) -> list[Command]:
        build = self._builds.by_payload_id(call.payload_id)
        if build is None:
            return [ev.Reply(request.ticket, encode_error(request.identifier, UNKNOWN_PAYLOAD, "Unknown payload"))]
        if build.chosen is not None:
            return [ev.Reply(request.ticket, build.answer_for(request.identifier))]
        build.askers.append(request)
        if build.is_choosing:
            return []
        build.begin_choice(call.version, now, now + self._deadline_s, self._unhealthy)
        return [ev.Seal(build.build_id)]

    def _ask_for_blocks(self, build: SharedBuild, assembled: object, now: float) -> list[Command]:
        if not build.is_choosing:
            return []
        commands: list[Command] = [ev.WakeAt(build.build_id, build.deadline)]
        commands += [self._want(build, name) for name in self._builders if name in build.joined]
        return commands + self._choice.on_sealed(build, assembled, now)

    def _want(self, build: SharedBuild, builder: str) -> ev.Send:
        body = get_payload_request(build.askers[0].identifier, build.version, build.joined[builder])
        return ev.Send(self._open(_Wanted(build, builder)), builder, body)

    # --- everything else ---

    def _first(self) -> str:
        return next((name for name in self._builders if name not in self._unhealthy), self._builders[0])

    def _pass_on(self, request: ev.Requested) -> ev.Send:
        return ev.Send(self._open(_Passed(request)), self._first(), request.body, pass_through=True)

    def _mirror(self, request: ev.Requested, method: str) -> list[Command]:
        if not method.startswith("miner_"):
            others = ev.Copy(request.body, in_order=False, skip=frozenset({self._first()}))
            return [self._pass_on(request), others]
        # Settings go to all in the background too, the first one included: there they are remembered.
        return [self._pass_on(request), ev.Copy(request.body, latest_only=method, lasting=True, in_order=False)]


def _rank(outcome: Outcome, *, is_forkchoice: bool) -> tuple[int, bytes]:
    """(0 for VALID to 4 for none, body); lower is better."""
    try:
        body = body_of(outcome)
        status = decode_forkchoice(body).status if is_forkchoice else decode_verdict(body).status
    except RefusedError:
        return 3, body
    except (RemoteError, UnavailableError):
        return 4, b""
    return (0 if status is PayloadStatus.VALID else 1 if status in _DOUBT else 2), body


def _reply(request: ev.Requested, answer: tuple[int, bytes] | None) -> ev.Reply:
    if answer is None or not answer[1]:
        return apology(request, "no builder answered")
    return ev.Reply(request.ticket, _readdressed(answer[1], request.identifier))


def _readdressed(body: bytes, identifier: bytes) -> bytes:
    try:
        return readdress(body, identifier)
    except DecodeError:
        return body  # the builder's own words, whatever they are


def _passed_on(request: ev.Requested, outcome: Outcome) -> ev.Reply:
    if isinstance(outcome, ev.Answered):
        return ev.Reply(request.ticket, outcome.body, outcome.status, outcome.content_type)
    return apology(request, outcome.reason)


def _without_id(builder: str, result: ForkchoiceResult) -> str:
    detail = f": {result.validation_error}" if result.validation_error else ""
    return f"{builder} said {result.status}, no payload id{detail}"


def _abandoned(builds: Iterable[SharedBuild]) -> list[Command]:
    found: list[Command] = []
    for build in builds:
        build.abandoned = True
        found.append(ev.BuildAbandoned(BuildId(build.build_id)))
    return found
