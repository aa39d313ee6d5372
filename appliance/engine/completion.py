"""Filling in a state root: the EL builds a candidate's very transactions. Part of the choice, pure.

    candidate with a zero state root,    Send forkchoiceUpdated (its transactions, noTxPool) to the EL instead of
      its turn to be judged              newPayload
    EL: payload id                       Send getPayload of it to the EL
    EL: a block of these transactions    it takes the candidate's place, and is VALID: it is the EL's own work
    EL: anything else                    the candidate is lost, and that is no word about its builder

It takes as long as a validation and one call more. The deadline goes on meanwhile: whatever has not come when it
passes gives way to the EL's own block.
"""

from dataclasses import dataclass

from appliance.domain.errors import DecodeError, RemoteError, UnavailableError
from appliance.engine.builds import BuildRecord
from appliance.engine.calls import CallTable, Completing, Completion
from appliance.engine.events import EL, CandidateLost, Command, Send
from appliance.engine.offers import Offer, starts_with
from appliance.engine.outcomes import Outcome, body_of
from appliance.engine.selection import Selection
from appliance.wire.engine_answers import decode_forkchoice, decode_payload
from appliance.wire.engine_bodies import get_payload_request
from appliance.wire.state_root import completion_request, has_zero_state_root


@dataclass(frozen=True, slots=True)
class StateRoots:
    """The conversations with the EL about state roots; ``enabled`` is the configuration's word."""

    calls: CallTable
    enabled: bool = False

    def wanted(self, offer: Offer) -> bool:
        """Whether this candidate is to be completed instead of validated."""
        return self.enabled and not offer.is_local and has_zero_state_root(offer.taken())

    def begin(self, record: BuildRecord, selection: Selection, offer: Offer) -> list[Command]:
        """Order the EL to build it; nothing but a loss when the order to build cannot be read."""
        try:
            body = completion_request(record.params, record.version, offer.taken().transactions)
        except DecodeError as error:
            return _lose(selection, offer.source, str(error))
        return [Send(self.calls.open(Completing(record, selection, offer.source)), EL, body)]

    def on_ordered(self, purpose: Completing, outcome: Outcome) -> list[Command]:
        """The EL's answer to the order."""
        record, selection, source = purpose.record, purpose.selection, purpose.source
        try:
            result = decode_forkchoice(body_of(outcome))
        except (UnavailableError, RemoteError) as error:
            return _lose(selection, source, str(error))
        if result.payload_id is None:
            return _lose(selection, source, f"{EL} said {result.status}, no payload id")
        body = get_payload_request(b"", record.version, result.payload_id)
        return [Send(self.calls.open(Completion(record, selection, source)), EL, body)]

    def on_block(self, purpose: Completion, outcome: Outcome) -> list[Command]:
        """The EL's block of these transactions."""
        record, selection, source = purpose.record, purpose.selection, purpose.source
        try:
            block = decode_payload(body_of(outcome), record.version)
        except (UnavailableError, RemoteError) as error:
            return _lose(selection, source, str(error))
        wanted = [bytes(transaction) for transaction in selection.offers[source].taken().transactions]
        if len(block.transactions) != len(wanted) or not starts_with(block.transactions, wanted):
            return _lose(selection, source, f"{EL} made another block of it")
        objection = selection.complete(source, block)
        return [] if objection is None else [CandidateLost(source, "refused", objection)]


def _lose(selection: Selection, source: str, reason: str) -> list[Command]:
    reason = f"no state root: {reason}"
    selection.lose(source, reason)
    return [CandidateLost(source, "unjudged", reason)]
