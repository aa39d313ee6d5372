"""The Engine API multiplexer: a pure machine between op-node, one execution client (EL) and n builders.

Events come in, commands go out; time is an argument, nothing here waits, reads a clock or logs. The EL is
the truth: its answers are passed on as they came, and what builders do can make a block better, never
late or wrong.

    event                              commands
    ---------------------------------  --------------------------------------------------------------
    forkchoiceUpdated                  Send to the EL, Copy to the builders
      with attributes                  + BuildStarted; builders get it by SendInOrder, as their answer
                                         (a payload id of their own) is wanted; replaces older builds
      the same again                   Send to the EL; it is the same build, so only builders that were
                                         absent are asked again
      with noTxPool                    Send to the EL alone
      EL: VALID                        Reply, HeadChanged, with a payload id BuildConfirmed
      EL: INVALID                      Reply with an error; BuildAbandoned
      EL: anything else                Reply as it came; BuildAbandoned
      builder: payload id              BuilderJoined; if getPayload has come meanwhile: Send getPayload
      builder: anything else           BuilderAbsent
    getPayload of a build              Seal the stream
      Sealed                           Send getPayload to the EL and to each builder under its own id,
                                       WakeAt the deadline; then, after each of the events below, what
                                       the selection says: Validate, Reply, or nothing yet
      EL or builder: block             an offer
      EL, on Validate: verdict         the offer is VALID, or lost
        with a zero state root         the EL builds it itself instead (external_state_root; completion.py)
      DeadlinePassed                   the best VALID block is returned
      asked again                      joins the choice, or gets the same block
    getPayload, unknown id or version  Seal what there is; Send to the EL alone; Reply
      while an order to build is open  wait for its answer: the id may be the one that is on its way; so also a
                                         known id, when the very same is being ordered again
    newPayload                         Send to the EL, Copy to the builders
      EL: INVALID, and it is a block     Reply as it came; the same order again is a new build, and the
        that we returned                 builder of that block is not asked
    mirrored methods                   Send to the EL, Copy to the builders until it arrives (miner_*)
    HealthChanged                      from now on, builders that are ill are not waited for (selection.py), and
                                         those to be ignored are named in no command about the chain
    all others                         Send to the EL; Reply with its very status and body
    ModeChanged                        from now on builds start in this mode (get_payload.py says what it means);
      to disabled                      at once no command names a builder, BuildAbandoned for a stream that
                                         runs, and a choice that runs ends with the EL's own block

An upstream that fails is a RemoteError or an absence, told by an observation; if it is the EL, op-node
gets a JSON-RPC error -32603 with HTTP 200. op-node (op-service/eth, engine errors) takes any code outside
of -38000..-38099 for temporary and tries again, which is what a sequencer without its EL should do; it is
also what rollup-boost answers.

What a call was for is kept under its call id (calls.py); orders to build are orders.py, choosing a block is
get_payload.py and selection.py. Every table is bounded: calls end with the shell's timeouts, builds by
`builds.MAX_BUILDS`.
"""

from typing import Final

from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import PayloadSource, PayloadStatus
from appliance.engine.builds import BuildBook, BuildRecord, Phase
from appliance.engine.calls import (
    BlockAtEl,
    BuildAtBuilder,
    CallTable,
    ForkchoiceAtEl,
    Forward,
    PlainPayload,
)
from appliance.engine.events import (
    EL,
    Answered,
    BlockReturned,
    BuildAbandoned,
    Command,
    Copy,
    DeadlinePassed,
    Event,
    Failed,
    HealthChanged,
    ModeChanged,
    PayloadReturned,
    Produced,
    Reply,
    Requested,
    Seal,
    Sealed,
    Send,
)
from appliance.engine.get_payload import PayloadChoice
from appliance.engine.orders import Orders
from appliance.engine.outcomes import Outcome, body_of, unanswered
from appliance.engine.policies import Policy
from appliance.wire.engine import NEW_PAYLOAD_VERSIONS, ForkchoiceUpdated, GetPayload, Mirrored, NewPayload
from appliance.wire.engine_answers import (
    BuiltPayload,
    decode_payload,
    decode_verdict,
)

_INVALID: Final = {PayloadStatus.INVALID, PayloadStatus.INVALID_BLOCK_HASH}


class Multiplexer:
    """The machine. ``builders`` are names in the order of preference; ``builder_deadline_s`` bounds a choice."""

    def __init__(
        self,
        builders: tuple[str, ...],
        policy: Policy,
        builder_deadline_s: float,
        mode: ExecutionMode = ExecutionMode.ENABLED,
        *,
        external_state_root: bool = False,
    ) -> None:
        self._book = BuildBook()
        self._calls = CallTable()
        self._choice = PayloadChoice(
            self._book, self._calls, policy, builder_deadline_s, external_state_root=external_state_root
        )
        self._orders = Orders(builders, self._book, self._calls, self._choice, mode)
        # getPayload requests that came before the answer to the order: bounded by the server's connections,
        # and each waits at most as long as the EL's timeout.
        self._early: list[tuple[Requested, GetPayload, float]] = []
        self._choice.announcing = self._orders.uses_builders

    @property
    def mode(self) -> ExecutionMode:
        """The mode that the next build starts in."""
        return self._orders.mode

    @property
    def open_calls(self) -> int:
        """Calls to upstreams whose outcome has not come."""
        return len(self._calls)

    @property
    def head(self) -> str:
        """The block that the EL last took as its head at op-node's word; empty before."""
        return self._orders.head

    def handle(self, event: Event, now: float) -> list[Command]:
        """What an event makes us do, in order; ``now`` in seconds, monotonic."""
        match event:
            case Requested():
                return self._on_request(event, now)
            case Answered() | Failed():
                return self._on_outcome(event, now)
            case Sealed():
                return self._choice.on_sealed(event, now)
            case DeadlinePassed(build_id):
                record = self._book.by_id(build_id)
                return self._choice.on_deadline(record, now) if record else []
            case ModeChanged(mode):
                return self._switch(mode, now)
            case HealthChanged(unhealthy, ignored):
                self._choice.unhealthy, self._choice.ignored = unhealthy, ignored
                return []

    def _on_request(self, request: Requested, now: float) -> list[Command]:
        match request.call:
            case ForkchoiceUpdated() as call:
                return self._forkchoice_updated(request, call)
            case GetPayload() as call:
                return self._get_payload(request, call, now)
            case NewPayload() as call:
                self._remember(call)
                send = Send(self._calls.open(BlockAtEl(request, call.block_hash)), EL, request.body)
                return [send, *self._copies(self._copy(request))]
            case Mirrored(method):
                return [self._forward(request), *self._copies(_mirror(method, request.body))]
            case _:
                return [self._forward(request)]

    def _on_outcome(self, event: Outcome, now: float) -> list[Command]:
        match self._calls.close(event.call_id):
            case Forward(request):
                return _passed_on(request, event)
            case BlockAtEl() as purpose:
                return self._block_answered(purpose, event)
            case ForkchoiceAtEl() as purpose:
                return [*self._orders.on_answer(purpose, event), *self._order_answered(purpose)]
            case BuildAtBuilder() as purpose:
                return self._orders.on_builders_answer(purpose, event, now)
            case PlainPayload() as purpose:
                return self._plain_payload(purpose, event, now)
            case None:
                return []
            case purpose:
                return self._choice.on_outcome(purpose, event, now)

    def _forward(self, request: Requested) -> Send:
        return Send(self._calls.open(Forward(request)), EL, request.body, pass_through=True)

    def _copy(self, request: Requested, latest_only: str | None = None) -> Copy:
        return Copy(request.body, latest_only, skip=self._choice.ignored)

    def _copies(self, copy: Copy) -> list[Command]:
        return [copy] if self._orders.uses_builders else []

    def _remember(self, call: NewPayload) -> None:
        if call.block_hash is not None and call.block_number is not None:
            self._book.remember_block(call.block_hash, call.block_number)

    # --- the switch ---

    def _switch(self, mode: ExecutionMode, now: float) -> list[Command]:
        self._orders.mode = mode
        self._choice.announcing = self._orders.uses_builders
        if mode is not ExecutionMode.DISABLED:
            return []
        return [command for record in self._book for command in self._switch_off(record, now)]

    def _switch_off(self, record: BuildRecord, now: float) -> list[Command]:
        if record.mode is ExecutionMode.DISABLED:
            return []
        record.mode = ExecutionMode.DISABLED
        running = record.streamed and not record.abandoned and record.phase is Phase.BUILDING
        stopped: list[Command] = [BuildAbandoned(record.build_id)] if running else []
        return stopped + self._choice.switch_off(record, now)

    # --- new_payload ---

    def _block_answered(self, purpose: BlockAtEl, outcome: Outcome) -> list[Command]:
        try:
            body = body_of(outcome)
        except UnavailableError as error:
            return unanswered(purpose.request, error)
        return [Reply(purpose.request.ticket, body), *self._taken_back(purpose.block_hash, body)]

    def _taken_back(self, block_hash: str | None, body: bytes) -> list[Command]:
        try:
            verdict = decode_verdict(body)
        except RemoteError:
            return []
        if verdict.status not in _INVALID or block_hash is None:
            return []
        record = self._book.by_block(block_hash)
        reason = f"{EL} said {verdict.status} to op-node: {verdict.validation_error or 'without a reason'}"
        return self._choice.take_back(record, reason) if record else []

    # --- forkchoice_updated ---

    def _forkchoice_updated(self, request: Requested, call: ForkchoiceUpdated) -> list[Command]:
        if call.attributes is not None:
            return self._orders.order(request, call, call.attributes)
        send = Send(self._calls.open(ForkchoiceAtEl(request, call.head, None)), EL, request.body)
        return [send, *self._copies(self._copy(request, latest_only="forkchoice"))]

    # --- getPayload ---

    def _get_payload(self, request: Requested, call: GetPayload, now: float) -> list[Command]:
        """``now`` is when op-node asked."""
        record = self._book.by_payload_id(call.payload_id)
        if self._orders.open and (record is None or self._is_ordered_anew(record)):
            self._early.append((request, call, now))
            return []
        if record is not None and _can_choose(record, call.version):
            return self._choice.ask(record, request, call, now)
        purpose = PlainPayload(request, call.version, call.payload_id, record, now)
        send = Send(self._calls.open(purpose), EL, request.body, relay=True)
        if record is None:
            return [send]
        if record.phase is Phase.BUILDING:
            record.phase = Phase.PASSED
        return [Seal(record.build_id), send] if record.streamed else [send]

    def _is_ordered_anew(self, record: BuildRecord) -> bool:
        """Whether the very same was ordered since, after other orders: the id is about to name that build instead.

        To answer with the old one would leave the stream of the new one open, and subscribers would be shown
        flashblocks of a block that was answered already.
        """
        newest = self._book.newest()
        return newest is not None and newest is not record and newest.params == record.params

    def _order_answered(self, purpose: ForkchoiceAtEl) -> list[Command]:
        if purpose.record is None:
            return []
        early, self._early = self._early, []
        return [command for waiting in early for command in self._get_payload(*waiting)]

    def _plain_payload(self, purpose: PlainPayload, outcome: Outcome, now: float) -> list[Command]:
        request = purpose.request
        try:
            body = body_of(outcome)
        except UnavailableError as error:
            return unanswered(request, error)
        reply = Reply(request.ticket, body)
        try:
            payload = decode_payload(body, purpose.version)
        except (DecodeError, RemoteError):
            return [reply]
        return [reply, Produced(EL, ok=True, reason=""), *self._plain_returned(purpose, payload, now)]

    def _plain_returned(self, purpose: PlainPayload, payload: BuiltPayload, now: float) -> list[Command]:
        self._book.remember_block(payload.block_hash, payload.block_number)
        returned = BlockReturned(
            block_hash=payload.block_hash,
            block_number=payload.block_number,
            payload_id=purpose.payload_id,
            context=PayloadSource.L2,
            builder=None,
            source=EL,
            candidates={EL: "alone"},
            seconds=now - purpose.asked_at,
        )
        if purpose.record is None or not purpose.record.streamed:
            return [returned]
        return [returned, PayloadReturned(purpose.record.build_id, payload.block_hash)]


def _can_choose(record: BuildRecord, version: int) -> bool:
    """Whether a block can be chosen for this version: one that we can validate, and always the same."""
    return version in NEW_PAYLOAD_VERSIONS and record.version in {0, version}


def _mirror(method: str, body: bytes) -> Copy:
    # A builder that was away must still learn the latest miner settings; a transaction is stale by then.
    setting = method.startswith("miner_")
    return Copy(body, latest_only=method if setting else None, lasting=setting, in_order=False)


def _passed_on(request: Requested, outcome: Outcome) -> list[Command]:
    if isinstance(outcome, Answered):
        return [Reply(request.ticket, outcome.body, outcome.status, outcome.content_type)]
    return unanswered(request, UnavailableError(outcome.reason))
