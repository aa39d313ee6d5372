"""getPayload of a build: fence the stream, ask everyone, choose, reply. Part of the multiplexer's machine.

    mode of the build   op-node gets                             builders
    ------------------  ---------------------------------------  ------------------------------------------
    enabled             the choice                               asked, judged
    dry_run             the EL's own block as soon as it is      asked and judged all the same, after the
                        there                                    reply too; the choice is only told
    disabled            the EL's own block                       none

A build keeps the mode that it was started in, so that a choice ends as it began; but `disabled` comes over
every build at once: candidates of builders are withdrawn, also from a choice that is being made, and a
builder's block that was answered already is not answered again.
"""

from collections.abc import Iterator
from typing import Final

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import PayloadStatus
from appliance.engine.builds import BuildBook, BuildRecord, Phase
from appliance.engine.calls import BuilderPayload, CallTable, Completing, Completion, Judgement, LocalPayload, Question
from appliance.engine.completion import StateRoots
from appliance.engine.events import (
    ASSEMBLED,
    EL,
    Announce,
    BlockCameLate,
    CandidateLost,
    Command,
    Decided,
    PayloadReturned,
    Produced,
    Reply,
    Requested,
    Seal,
    Sealed,
    Send,
    Validate,
    WakeAt,
)
from appliance.engine.explanation import explain
from appliance.engine.offers import Offer, Standing, facts_of
from appliance.engine.outcomes import Outcome, body_of, builders_block
from appliance.engine.policies import Policy
from appliance.engine.replies import answer, give_up, returned
from appliance.engine.reputation import after_all, good_words, late_word, rejection
from appliance.engine.selection import AskVerdict, Choose, GiveUp, Selection, Wait
from appliance.wire.engine import GetPayload
from appliance.wire.engine_answers import RefusedError, decode_payload, decode_verdict
from appliance.wire.engine_bodies import get_payload_request

_UNFINISHED: Final = {Standing.PENDING, Standing.OFFERED, Standing.VALIDATING}
_SWITCHED_OFF: Final = "builders are switched off"


class PayloadChoice:
    """The conversations that choose a block, one per build; ``deadline_s`` counts from op-node's request.

    ``announcing`` says whether builders are told what was chosen.
    """

    def __init__(
        self,
        book: BuildBook,
        calls: CallTable,
        policy: Policy,
        deadline_s: float,
        *,
        external_state_root: bool = False,
    ) -> None:
        self._book = book
        self._calls = calls
        self._policy = policy
        self._deadline_s = deadline_s
        self._state_roots = StateRoots(calls, external_state_root)
        self.unhealthy: frozenset[str] = frozenset()
        self.ignored: frozenset[str] = frozenset()
        self.announcing = True

    def ask(self, record: BuildRecord, request: Requested, call: GetPayload, now: float) -> list[Command]:
        """op-node wants the block: start choosing, join a choice that is running, or repeat its result."""
        if record.phase is Phase.ANSWERED and record.chosen is not None:
            return [Reply(request.ticket, answer(record, record.chosen, request.identifier))]
        record.askers.append(request)
        if record.phase in {Phase.SEALING, Phase.CHOOSING}:
            return []
        record.phase, record.version, record.payload_id = Phase.SEALING, call.version, call.payload_id
        record.asked_at, record.deadline = now, now + self._deadline_s
        if record.streamed:
            return [Seal(record.build_id)]
        return self._ask_everyone(record, None, now)

    def on_sealed(self, event: Sealed, now: float) -> list[Command]:
        """The stream is fenced: ask everyone."""
        record = self._book.by_id(event.build_id)
        if record is None or record.phase is not Phase.SEALING:
            return []
        return self._ask_everyone(record, event.assembled, now)

    def _ask_everyone(self, record: BuildRecord, assembled: AssembledPayload | None, now: float) -> list[Command]:
        record.phase = Phase.CHOOSING
        selection = record.selection = Selection(record.order, record.builders, self._policy, self.unhealthy)
        commands: list[Command] = [WakeAt(record.build_id, record.deadline)] if record.builders else []
        commands.append(self._ask_local(record, selection, alone=not record.builders and assembled is None))
        if assembled is not None and _may_be_shown(record, assembled):
            commands += _lost(ASSEMBLED, "refused", selection.promise(assembled))
            _note_promise(selection.offers[ASSEMBLED], assembled, now)
        for builder in record.builders:
            commands += self._ask_builder(record, selection, builder)
        return commands + self._advance(record, selection, now)

    def switch_off(self, record: BuildRecord, now: float) -> list[Command]:
        """The emergency switch, for a build that is marked as disabled already."""
        selection = record.selection
        if selection is None:
            if record.chosen is not None and record.chosen_builder is not None:
                # Who asks again gets the EL's own: op-node may not have had the answer, and must not get it now.
                record.phase, record.chosen = Phase.FAILED, None
            return []
        selection.withdraw_builders(_SWITCHED_OFF)
        if record.phase is Phase.ANSWERED:  # a rehearsal that goes on after the reply
            return self._end(record, selection, selection.offers[EL], selection.offers[EL], now)
        return self._advance(record, selection, now)

    def on_joined(self, record: BuildRecord, builder: str) -> list[Command]:
        """A builder's payload id came while its block is being waited for."""
        if record.selection is None or not record.builders:
            return []
        return self._ask_builder(record, record.selection, builder)

    def on_absent(self, record: BuildRecord, builder: str, reason: str, now: float) -> list[Command]:
        """A builder's refusal to build came while its block is being waited for."""
        if record.selection is None or not record.builders:
            return []
        record.selection.lose(builder, reason)
        return [*_absence(record, builder), *self._advance(record, record.selection, now)]

    def take_back(self, record: BuildRecord, reason: str) -> list[Command]:
        """The block that was returned is INVALID after all: it is not returned again, nor is its builder asked.

        Without this op-node, which orders the same build once more, would get the same block for ever.
        """
        builder, record.chosen_builder = record.chosen_builder, None
        record.phase, record.chosen = Phase.FAILED, None
        if builder is None:
            return _lost(EL, "invalid", reason)
        record.barred[builder] = reason
        return [*_lost(builder, "invalid", reason), *after_all(builder, reason, completed=record.chosen_completed)]

    def on_deadline(self, record: BuildRecord, now: float) -> list[Command]:
        """What has come by now has to do."""
        if record.selection is None or now < record.deadline:
            return []
        record.selection.pass_deadline()
        return self._advance(record, record.selection, now)

    def on_outcome(self, purpose: Question, outcome: Outcome, now: float) -> list[Command]:
        """What came of a call that was made for a choice."""
        match purpose:
            case LocalPayload():
                return self.on_local(purpose, outcome, now)
            case BuilderPayload():
                return self.on_builder(purpose, outcome, now)
            case Judgement():
                return self.on_verdict(purpose, outcome, now)
            case Completing() | Completion():
                return self.on_completion(purpose, outcome, now)

    def on_local(self, purpose: LocalPayload, outcome: Outcome, now: float) -> list[Command]:
        """The EL's own block."""
        record, selection = purpose.record, purpose.selection
        if record.selection is not selection:
            # Chosen meanwhile; asking let the EL end its building.
            return [*late_word(EL, outcome), *_came_late(EL, outcome, record, now)]
        selection.offers[EL].arrived_at = now
        try:
            body = body_of(outcome)
        except UnavailableError as error:
            commands = _lost(EL, "failed", str(error))
            commands.append(Produced(EL, ok=False, reason=str(error)))
            selection.lose(EL, str(error))
        else:
            commands = self._take_local(record, selection, body)
        return commands + self._advance(record, selection, now)

    def on_builder(self, purpose: BuilderPayload, outcome: Outcome, now: float) -> list[Command]:
        """A builder's block."""
        record, selection, builder = purpose.record, purpose.selection, purpose.builder
        if record.selection is not selection:
            # Chosen meanwhile; asking let it finish its block.
            word = late_word(builder, outcome, in_time=now <= record.deadline, told=selection.overdue)
            return [*word, *_came_late(builder, outcome, record, now)]
        selection.offers[builder].arrived_at = now
        try:
            payload = builders_block(outcome, record.version)
        except (UnavailableError, RemoteError) as error:
            selection.lose(builder, str(error))
            commands = [*_lost(builder, "failed", str(error)), Produced(builder, ok=False, reason=str(error))]
        else:
            objection = selection.offer(builder, payload)
            commands = [*_lost(builder, "refused", objection)]
            if objection is not None:
                commands.append(Produced(builder, ok=False, reason=objection))
        return commands + self._advance(record, selection, now)

    def on_verdict(self, purpose: Judgement, outcome: Outcome, now: float) -> list[Command]:
        """The EL's word on a candidate."""
        record, selection, source = purpose.record, purpose.selection, purpose.source
        if record.selection is not selection:
            return []
        selection.offers[source].judged_at = now
        try:
            selection.judge(source, decode_verdict(body_of(outcome)))
        except (UnavailableError, RemoteError) as error:
            selection.lose(source, f"not validated: {error}")
        return rejection(selection.offers[source]) + self._advance(record, selection, now)

    def on_completion(self, purpose: Completing | Completion, outcome: Outcome, now: float) -> list[Command]:
        """The EL's word on a candidate whose state root it is to fill in."""
        record, selection = purpose.record, purpose.selection
        offer = selection.offers[purpose.source]
        if record.selection is not selection or offer.standing is Standing.LOST:
            return []  # chosen, or withdrawn meanwhile
        offer.judged_at = now
        if isinstance(purpose, Completing):
            commands = self._state_roots.on_ordered(purpose, outcome)
        else:
            commands = self._state_roots.on_block(purpose, outcome)
        return commands + self._advance(record, selection, now)

    def _ask_local(self, record: BuildRecord, selection: Selection, *, alone: bool) -> Send:
        # The first asker's own bytes, so that the answer carries its id and can be passed on as it is.
        return Send(self._calls.open(LocalPayload(record, selection)), EL, record.askers[0].body, relay=alone)

    def _ask_builder(self, record: BuildRecord, selection: Selection, builder: str) -> list[Command]:
        if builder in record.barred:
            selection.lose(builder, record.barred[builder])
            return []
        payload_id = record.joined.get(builder)
        if payload_id is not None:
            # In a dry run op-node may have its answer already: then the call carries an id of ours.
            identifier = record.askers[0].identifier if record.askers else b""
            body = get_payload_request(identifier, record.version, payload_id)
            return [Send(self._calls.open(BuilderPayload(record, selection, builder)), builder, body)]
        if builder not in record.absent:
            return []  # its answer to the order to build is still to come
        selection.lose(builder, record.absent[builder])
        return _absence(record, builder)

    def _take_local(self, record: BuildRecord, selection: Selection, body: bytes) -> list[Command]:
        try:
            selection.offer(EL, decode_payload(body, record.version))
        except (DecodeError, RefusedError) as error:
            record.last_word = body
            selection.lose(EL, str(error))
            return _lost(EL, "failed", str(error))
        return [Produced(EL, ok=True, reason="")]

    def _advance(self, record: BuildRecord, selection: Selection, now: float) -> list[Command]:
        if record.mode is ExecutionMode.DRY_RUN:
            return self._rehearse(record, selection, now)
        match selection.step():
            case Choose(offer):
                commands = self._return_block(record, selection, offer, now)
                return [*commands, *self._end(record, selection, offer, offer, now)]
            case AskVerdict(offer):
                return self._validate(record, selection, offer, now)
            case GiveUp():
                return [*give_up(record, selection), *self._end(record, selection, None, None, now)]
            case Wait():
                return []

    def _rehearse(self, record: BuildRecord, selection: Selection, now: float) -> list[Command]:
        """A dry run: the EL's own block goes out as soon as it is there, and the choice goes on without op-node."""
        own = selection.offers[EL]
        if own.standing is Standing.LOST:
            return [*give_up(record, selection), *self._end(record, selection, None, None, now)]
        commands: list[Command] = []
        if own.standing is Standing.VALID and record.phase is Phase.CHOOSING:
            commands = self._return_block(record, selection, own, now)
        match selection.step():
            case Choose(offer) if own.standing is Standing.VALID:
                return [*commands, *self._end(record, selection, offer, own, now)]
            case AskVerdict(offer):
                return [*commands, *self._validate(record, selection, offer, now)]
            case _:
                return commands  # the best may be known, but what it is compared with is still to come

    def _validate(self, record: BuildRecord, selection: Selection, offer: Offer, now: float) -> list[Command]:
        offer.validating_at = now
        if self._state_roots.wanted(offer):
            commands = self._state_roots.begin(record, selection, offer)
            return commands if offer.standing is not Standing.LOST else commands + self._advance(record, selection, now)
        call_id = self._calls.open(Judgement(record, selection, offer.source))
        return [Validate(call_id, offer.taken(), record.order.parent_beacon_block_root)]

    def _return_block(self, record: BuildRecord, selection: Selection, offer: Offer, now: float) -> list[Command]:
        block = offer.taken()
        record.phase, record.chosen, record.chosen_builder = Phase.ANSWERED, block, offer.builder
        record.chosen_completed = offer.completed
        commands: list[Command] = [
            Reply(asker.ticket, answer(record, block, asker.identifier)) for asker in record.askers
        ]
        record.askers = []
        self._book.remember_block(block.block_hash, block.block_number)
        commands.append(returned(record, selection, offer, block, now))
        if record.streamed:
            commands.append(PayloadReturned(record.build_id, block.block_hash, _holds_all(offer)))
        if self.announcing:
            commands.append(Announce(block, record.order.parent_beacon_block_root, self.ignored))
        return commands

    def _end(
        self, record: BuildRecord, selection: Selection, preferred: Offer | None, returned: Offer | None, now: float
    ) -> list[Command]:
        """The choice is over: a dry run's is later than its reply, and only now are its builders judged."""
        record.selection = None
        decided = Decided(explain(record, selection, preferred, returned, now))
        return [*_late(selection), *good_words(selection), decided]


def _absence(record: BuildRecord, builder: str) -> list[Command]:
    """A bad word, unless the builder is well and only declined (reputation.py)."""
    return [] if builder in record.declined else [Produced(builder, ok=False, reason=record.absent[builder])]


def _may_be_shown(record: BuildRecord, assembled: AssembledPayload) -> bool:
    return record.mode is ExecutionMode.ENABLED and assembled.builder not in record.barred


def _note_promise(offer: Offer, assembled: AssembledPayload, now: float) -> None:
    offer.arrived_at = now
    if assembled.validated:
        offer.verdict = PayloadStatus.VALID


def _holds_all(offer: Offer) -> bool:
    """Whether a block of another hash than the flashblocks' is what was shown all the same."""
    return offer.completed and offer.preserves


def _lost(source: str, kind: str, reason: str | None) -> list[Command]:
    return [] if reason is None else [CandidateLost(source, kind, reason)]


def _late(selection: Selection) -> Iterator[Command]:
    if not selection.overdue:
        return
    for offer in selection.offers.values():
        if offer.builder and offer.standing in _UNFINISHED:
            reason = f"still {offer.standing} at the deadline"
            yield CandidateLost(offer.source, "late", reason)
            if offer.standing is Standing.PENDING:
                yield Produced(offer.builder, ok=False, reason=reason)


def _came_late(upstream: str, outcome: Outcome, record: BuildRecord, now: float) -> list[Command]:
    try:
        facts = facts_of(builders_block(outcome, record.version))
    except (UnavailableError, RemoteError):
        return []
    return [BlockCameLate(record.build_id, upstream, facts, now - record.asked_at)]
