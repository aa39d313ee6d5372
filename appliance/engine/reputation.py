"""What a choice says of its sources' health: pure, from the standing of their offers.

    builder's block VALID, or not needed when the choice was made      a good word
    builder's block still PENDING at the deadline                      a bad word (get_payload.py)
    INVALID or INVALID_BLOCK_HASH from the EL                          a bad word
    SYNCING, ACCEPTED, an error or silence of the EL on a validation   none about the builder
    no answer, an error or SYNCING to the order to build               a bad word
    VALID without a payload id                                         none: it agrees with the head, costs no time, and
                                                                       may be a builder listener that serves another
                                                                       sequencer; two that lead would else take each
                                                                       other's health, and so the leadership, away
    its answer comes when all is over: a block, in time                a good word
                                       a block, after the deadline     a bad word, unless it was told already
                                       an error or none                a bad word, unless it was told already
    its block was returned as VALID, and the EL calls it INVALID       two bad words: one takes back the good one
      after all, at op-node's newPayload
      but the EL has filled in its state root                          none: it is the EL's own work

So each build brings one word about each builder, or one on balance.
"""

from typing import Final

from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.payloads import PayloadStatus
from appliance.engine.events import CandidateLost, Command, Produced
from appliance.engine.offers import Offer, Standing
from appliance.engine.outcomes import Outcome, body_of
from appliance.engine.selection import Selection
from appliance.wire.engine_answers import refuse_error

_DAMNING: Final = {PayloadStatus.INVALID, PayloadStatus.INVALID_BLOCK_HASH}
_WELL: Final = {Standing.VALID, Standing.OFFERED}
_ERROR_BYTES: Final = 4096  # no error answer is longer: a block that comes too late is not read for its health


def good_words(selection: Selection) -> list[Command]:
    """At the end of a choice: who brought a block that nothing speaks against."""
    builders = [offer for name, offer in selection.offers.items() if offer.builder == name]
    return [Produced(offer.source, ok=True, reason="") for offer in builders if offer.standing in _WELL]


def rejection(offer: Offer) -> list[Command]:
    """After the EL's word on an offer; nothing unless it is lost by it."""
    if offer.standing is not Standing.LOST:
        return []
    if offer.verdict not in _DAMNING or offer.builder is None:
        return [CandidateLost(offer.source, "unjudged", offer.reason)]
    return [
        CandidateLost(offer.source, "invalid", offer.reason),
        Produced(offer.builder, ok=False, reason=offer.reason),
    ]


def after_all(builder: str, reason: str, *, completed: bool) -> list[Command]:
    """A builder's block that was returned is INVALID: without these its good words alone would keep it well."""
    if completed:
        return []
    bad = Produced(builder, ok=False, reason=f"INVALID after all: {reason}")
    return [bad, bad]


def late_word(upstream: str, outcome: Outcome, *, in_time: bool = True, told: bool = False) -> list[Command]:
    """An answer to getPayload that came after the choice; ``told`` when the deadline has told of its absence."""
    if told:
        return []
    try:
        body = body_of(outcome)
        if len(body) < _ERROR_BYTES:
            refuse_error(body)
    except (UnavailableError, RemoteError) as error:
        return [Produced(upstream, ok=False, reason=str(error))]
    return [Produced(upstream, ok=in_time, reason="" if in_time else "came after the deadline")]
