"""Orders to build, forkchoiceUpdated with attributes, and what becomes of them. Part of the multiplexer's machine.

The multiplexer's table says which order is a build of its own, which one is the same again, and what each answer means.
"""

from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import PayloadId, PayloadStatus
from appliance.engine.builds import BuildBook, BuildRecord, Phase
from appliance.engine.calls import BuildAtBuilder, CallTable, ForkchoiceAtEl
from appliance.engine.events import (
    EL,
    BuildAbandoned,
    BuildConfirmed,
    BuilderAbsent,
    BuilderJoined,
    BuildStarted,
    Command,
    HeadChanged,
    Reply,
    Requested,
    Send,
    SendInOrder,
)
from appliance.engine.get_payload import PayloadChoice
from appliance.engine.outcomes import Outcome, body_of, unanswered
from appliance.wire.engine import Attributes, ForkchoiceUpdated
from appliance.wire.engine_answers import ForkchoiceResult, decode_forkchoice
from appliance.wire.jsonrpc import INTERNAL_ERROR, encode_error


class Orders:
    """``builders`` in the order of preference; ``mode`` is the one that the next build starts in.

    ``head`` is what the EL last took as its head at op-node's word, empty before; ``open`` counts the orders that the
    EL has not answered.
    """

    def __init__(
        self, builders: tuple[str, ...], book: BuildBook, calls: CallTable, choice: PayloadChoice, mode: ExecutionMode
    ) -> None:
        self._builders = builders
        self._book = book
        self._calls = calls
        self._choice = choice
        self.mode = mode
        self.head = ""
        self.open = 0

    @property
    def uses_builders(self) -> bool:
        """Whether commands name builders at all."""
        return bool(self._builders) and self.mode is not ExecutionMode.DISABLED

    def order(self, request: Requested, call: ForkchoiceUpdated, attributes: Attributes) -> list[Command]:
        """op-node orders a block: a new build, or the same one again."""
        record = self._same_build(call)
        if record is not None:
            return self._build(request, record, _asked_again(record))
        abandoned = self._abandon(self._book.newest())
        record = self._start(call, attributes)
        started = [BuildStarted(record.build)] if record.streamed else []
        return [*abandoned, *started, *self._build(request, record, record.builders)]

    def _start(self, call: ForkchoiceUpdated, attributes: Attributes) -> BuildRecord:
        barred = self._barred(call.head, attributes.timestamp)
        # noTxPool: the block is given by its attributes alone, so there is nothing to build.
        left_out = self._choice.ignored | barred.keys()
        asked = tuple(name for name in self._builders if name not in left_out)
        builders = asked if self.uses_builders and not attributes.no_tx_pool else ()
        record = self._book.start(call, attributes, builders, self.mode)
        record.barred.update(barred)
        return record

    def _barred(self, parent_hash: str, timestamp: int) -> dict[str, str]:
        """Builders whose block for this very slot turned out INVALID."""
        newest = self._book.newest()
        if newest is None or (newest.order.parent_hash, newest.order.timestamp) != (parent_hash, timestamp):
            return {}
        return newest.barred

    def _same_build(self, call: ForkchoiceUpdated) -> BuildRecord | None:
        """The newest build, when op-node orders the very same again.

        Also after getPayload: op-node may not have got our answer. The stream is fenced by then, and a
        fresh build could break what subscribers were promised, so the same block is answered again.
        """
        newest = self._book.newest()
        if newest is None or newest.phase is Phase.FAILED or newest.abandoned:
            return None
        return newest if newest.params == call.params else None

    def _build(self, request: Requested, record: BuildRecord, builders: tuple[str, ...]) -> list[Command]:
        purpose = ForkchoiceAtEl(request, record.build.parent_hash, record)
        commands: list[Command] = [Send(self._calls.open(purpose), EL, request.body)]
        self.open += 1
        for builder in builders:
            call_id = self._calls.open(BuildAtBuilder(record, builder))
            commands.append(SendInOrder(call_id, builder, request.body))
        return commands

    def _abandon(self, record: BuildRecord | None) -> list[Command]:
        if record is None or record.abandoned or record.phase is not Phase.BUILDING:
            return []
        record.abandoned = True
        return [BuildAbandoned(record.build_id)] if _is_shown(record) else []

    def on_answer(self, purpose: ForkchoiceAtEl, outcome: Outcome) -> list[Command]:
        """The EL's answer to a forkchoiceUpdated, with or without an order in it."""
        request, record = purpose.request, purpose.record
        if record is not None:
            self.open -= 1
        try:
            body = body_of(outcome)
        except UnavailableError as error:
            return [*unanswered(request, error), *self._refused(record)]
        try:
            result = decode_forkchoice(body)
        except RemoteError:
            return [Reply(request.ticket, body), *self._refused(record)]
        if result.status is PayloadStatus.INVALID:
            return [_invalid_forkchoice(request, result), *self._refused(record)]
        reply = Reply(request.ticket, body)
        if result.status is not PayloadStatus.VALID:
            return [reply, *self._refused(record)]
        return [reply, *self._move_head(purpose.head), *self._confirm(record, result.payload_id)]

    def _move_head(self, head: str) -> list[Command]:
        if head == self.head:
            return []
        self.head = head
        return [HeadChanged(head, self._book.number_of(head))]

    def _confirm(self, record: BuildRecord | None, payload_id: PayloadId | None) -> list[Command]:
        if record is None or payload_id is None:
            return self._refused(record)
        self._book.name(record, payload_id)
        if record.confirmed or record.abandoned:
            return []
        record.confirmed = True
        return [BuildConfirmed(record.build_id)] if _is_shown(record) else []

    def _refused(self, record: BuildRecord | None) -> list[Command]:
        return [] if record is None or record.confirmed else self._abandon(record)

    def on_builders_answer(self, purpose: BuildAtBuilder, outcome: Outcome, now: float) -> list[Command]:
        """A builder's answer to an order."""
        record, builder = purpose.record, purpose.builder
        if not record.builders:
            return []  # switched off meanwhile
        try:
            result = decode_forkchoice(body_of(outcome))
        except (RemoteError, UnavailableError) as error:
            return self._absent(record, builder, str(error), now)
        if result.status is not PayloadStatus.VALID or result.payload_id is None:
            if result.status is PayloadStatus.VALID:
                record.declined.add(builder)
            detail = f": {result.validation_error}" if result.validation_error else ""
            return self._absent(record, builder, f"{builder} said {result.status}, no payload id{detail}", now)
        record.joined[builder] = result.payload_id
        joined = [BuilderJoined(record.build_id, builder, result.payload_id)] if _is_shown(record) else []
        return [*joined, *self._choice.on_joined(record, builder)]

    def _absent(self, record: BuildRecord, builder: str, reason: str, now: float) -> list[Command]:
        record.absent[builder] = reason
        return [BuilderAbsent(builder, reason), *self._choice.on_absent(record, builder, reason, now)]


def _asked_again(record: BuildRecord) -> tuple[str, ...]:
    if record.phase is not Phase.BUILDING or not record.builders:
        return ()
    absent = tuple(record.absent)
    record.absent.clear()
    record.declined.clear()
    return absent


def _is_shown(record: BuildRecord) -> bool:
    """Whether the flashblock stream may go on with it."""
    return record.streamed and record.mode is ExecutionMode.ENABLED


def _invalid_forkchoice(request: Requested, result: ForkchoiceResult) -> Reply:
    """rollup-boost answers INVALID with an error; the EL's own status goes along as its data."""
    text = f"Invalid payload: INVALID {result.validation_error or ''}".rstrip()
    return Reply(request.ticket, encode_error(request.identifier, INTERNAL_ERROR, text, result.payload_status))
