"""getPayload of a build: fence the stream, ask everyone, choose, reply. Part of the multiplexer's machine."""

from collections.abc import Iterator
from typing import Final

from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.domain.payloads import PayloadSource
from appliance.engine.builds import BuildBook, BuildRecord, Phase
from appliance.engine.calls import BuilderPayload, CallTable, Judgement, LocalPayload
from appliance.engine.events import (
    ASSEMBLED,
    EL,
    Announce,
    BlockReturned,
    CandidateLost,
    Command,
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
from appliance.engine.offers import Block, Offer, Standing
from appliance.engine.outcomes import Outcome, apology, body_of
from appliance.engine.policies import Policy
from appliance.engine.selection import AskVerdict, Choose, GiveUp, Selection, Wait
from appliance.wire.engine import (
    BuiltPayload,
    GetPayload,
    RefusedError,
    decode_payload,
    decode_verdict,
    refuse_error,
)
from appliance.wire.engine_bodies import assembled_answer, get_payload_request, payload_answer
from appliance.wire.jsonrpc import readdress

_UNFINISHED: Final = {Standing.PENDING, Standing.OFFERED, Standing.VALIDATING}
_ERROR_BYTES: Final = 4096  # no error answer is longer: a block that comes too late is not read for its health


class PayloadChoice:
    """The conversations that choose a block, one per build; ``deadline_s`` counts from op-node's request."""

    def __init__(self, book: BuildBook, calls: CallTable, policy: Policy, deadline_s: float) -> None:
        self._book = book
        self._calls = calls
        self._policy = policy
        self._deadline_s = deadline_s

    def ask(self, record: BuildRecord, request: Requested, call: GetPayload, now: float) -> list[Command]:
        """op-node wants the block: start choosing, join a choice that is running, or repeat its result."""
        if record.phase is Phase.ANSWERED and record.chosen is not None:
            return [Reply(request.ticket, _answer(record.chosen, request.identifier, record.version))]
        record.askers.append(request)
        if record.phase in {Phase.SEALING, Phase.CHOOSING}:
            return []
        record.phase, record.version, record.payload_id = Phase.SEALING, call.version, call.payload_id
        record.asked_at, record.deadline = now, now + self._deadline_s
        return [Seal(record.build_id)]

    def on_sealed(self, event: Sealed, now: float) -> list[Command]:
        """The stream is fenced: ask everyone."""
        record = self._book.by_id(event.build_id)
        if record is None or record.phase is not Phase.SEALING:
            return []
        record.phase = Phase.CHOOSING
        selection = record.selection = Selection(record.order, record.builders, self._policy)
        commands: list[Command] = [
            WakeAt(record.build_id, record.deadline),
            self._ask_local(record, selection),
        ]
        if event.assembled is not None and event.assembled.builder not in record.barred:
            commands += _lost(ASSEMBLED, "refused", selection.promise(event.assembled))
        for builder in record.builders:
            commands += self._ask_builder(record, selection, builder)
        return commands + self._advance(record, selection, now)

    def on_joined(self, record: BuildRecord, builder: str) -> list[Command]:
        """A builder's payload id came while its block is being waited for."""
        if record.selection is None:
            return []
        return self._ask_builder(record, record.selection, builder)

    def on_absent(self, record: BuildRecord, builder: str, reason: str, now: float) -> list[Command]:
        """A builder's refusal to build came while its block is being waited for."""
        if record.selection is None:
            return []
        record.selection.lose(builder, reason)
        produced = Produced(builder, ok=False, reason=reason)
        return [produced, *self._advance(record, record.selection, now)]

    def take_back(self, record: BuildRecord, reason: str) -> list[Command]:
        """The block that was returned is INVALID after all: it is not returned again, nor is its builder asked.

        Without this op-node, which orders the same build once more, would get the same block for ever.
        """
        builder, record.chosen_builder = record.chosen_builder, None
        record.phase, record.chosen = Phase.FAILED, None
        if builder is None:
            return _lost(EL, "invalid", reason)
        record.barred[builder] = reason
        return _lost(builder, "invalid", reason)

    def on_deadline(self, record: BuildRecord, now: float) -> list[Command]:
        """What has come by now has to do."""
        if record.selection is None or now < record.deadline:
            return []
        record.selection.pass_deadline()
        return self._advance(record, record.selection, now)

    def on_local(self, purpose: LocalPayload, outcome: Outcome, now: float) -> list[Command]:
        """The EL's own block."""
        record, selection = purpose.record, purpose.selection
        if record.selection is not selection:
            return [_produced_late(EL, outcome)]  # chosen meanwhile; asking let the EL end its building
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
            return [_produced_late(builder, outcome)]  # chosen meanwhile; asking let it finish its block
        try:
            payload = decode_payload(body_of(outcome), record.version)
        except (UnavailableError, RemoteError) as error:
            selection.lose(builder, str(error))
            commands = [*_lost(builder, "failed", str(error)), Produced(builder, ok=False, reason=str(error))]
        else:
            commands = [*_lost(builder, "refused", selection.offer(builder, payload))]
            commands.append(Produced(builder, ok=True, reason=""))
        return commands + self._advance(record, selection, now)

    def on_verdict(self, purpose: Judgement, outcome: Outcome, now: float) -> list[Command]:
        """The EL's word on a candidate."""
        record, selection, source = purpose.record, purpose.selection, purpose.source
        if record.selection is not selection:
            return []
        try:
            selection.judge(source, decode_verdict(body_of(outcome)))
        except (UnavailableError, RemoteError) as error:
            selection.lose(source, f"not validated: {error}")
        offer = selection.offers[source]
        commands = _lost(source, "invalid", offer.reason) if offer.standing is Standing.LOST else []
        return commands + self._advance(record, selection, now)

    def _ask_local(self, record: BuildRecord, selection: Selection) -> Send:
        # The first asker's own bytes, so that the answer carries its id and can be passed on as it is.
        return Send(self._calls.open(LocalPayload(record, selection)), EL, record.askers[0].body)

    def _ask_builder(self, record: BuildRecord, selection: Selection, builder: str) -> list[Command]:
        if builder in record.barred:
            selection.lose(builder, record.barred[builder])
            return []
        payload_id = record.joined.get(builder)
        if payload_id is not None:
            body = get_payload_request(record.askers[0].identifier, record.version, payload_id)
            return [Send(self._calls.open(BuilderPayload(record, selection, builder)), builder, body)]
        if builder not in record.absent:
            return []  # its answer to the order to build is still to come
        selection.lose(builder, record.absent[builder])
        return [Produced(builder, ok=False, reason=record.absent[builder])]

    def _take_local(self, record: BuildRecord, selection: Selection, body: bytes) -> list[Command]:
        try:
            selection.offer(EL, decode_payload(body, record.version))
        except (DecodeError, RefusedError) as error:
            record.last_word = body
            selection.lose(EL, str(error))
            return _lost(EL, "failed", str(error))
        return [Produced(EL, ok=True, reason="")]

    def _advance(self, record: BuildRecord, selection: Selection, now: float) -> list[Command]:
        match selection.step():
            case Choose(offer):
                return self._conclude(record, selection, offer, now)
            case AskVerdict(offer):
                return self._validate(record, selection, offer)
            case GiveUp():
                return _give_up(record, selection)
            case Wait():
                return []

    def _validate(self, record: BuildRecord, selection: Selection, offer: Offer) -> list[Command]:
        call_id = self._calls.open(Judgement(record, selection, offer.source))
        return [Validate(call_id, offer.taken(), record.order.parent_beacon_block_root)]

    def _conclude(self, record: BuildRecord, selection: Selection, offer: Offer, now: float) -> list[Command]:
        block = offer.taken()
        commands: list[Command] = [
            Reply(asker.ticket, _answer(block, asker.identifier, record.version)) for asker in record.askers
        ]
        record.phase, record.chosen, record.chosen_builder = Phase.ANSWERED, block, offer.builder
        record.askers, record.selection = [], None
        self._book.remember_block(block.block_hash, block.block_number)
        commands += _late(selection)
        commands.append(_returned(record, selection, offer, block, now))
        commands.append(PayloadReturned(record.build_id, block.block_hash))
        commands.append(Announce(block, record.order.parent_beacon_block_root))
        return commands


def _answer(block: Block, identifier: bytes, version: int) -> bytes:
    if isinstance(block, BuiltPayload):
        return payload_answer(block, identifier)
    return assembled_answer(block, identifier, version)


def _give_up(record: BuildRecord, selection: Selection) -> list[Command]:
    askers, record.askers, record.selection = record.askers, [], None
    record.phase = Phase.FAILED
    late = _late(selection)
    if record.last_word:
        return [*(Reply(asker.ticket, _readdressed(record.last_word, asker.identifier)) for asker in askers), *late]
    reason = selection.offers[EL].reason
    return [*(apology(asker, reason) for asker in askers), *late]


def _readdressed(body: bytes, identifier: bytes) -> bytes:
    try:
        return readdress(body, identifier)
    except DecodeError:
        return body  # the EL's own words, whatever they are


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


def _produced_late(upstream: str, outcome: Outcome) -> Produced:
    try:
        body = body_of(outcome)
        if len(body) < _ERROR_BYTES:
            refuse_error(body)
    except (UnavailableError, RemoteError) as error:
        return Produced(upstream, ok=False, reason=str(error))
    return Produced(upstream, ok=True, reason="")


def _returned(record: BuildRecord, selection: Selection, offer: Offer, block: Block, now: float) -> BlockReturned:
    return BlockReturned(
        block_hash=block.block_hash,
        block_number=block.block_number,
        payload_id=record.payload_id,
        context=PayloadSource.L2 if offer.is_local else PayloadSource.BUILDER,
        builder=offer.builder,
        source=offer.source,
        candidates={name: str(other) for name, other in selection.offers.items()},
        seconds=now - record.asked_at,
    )
