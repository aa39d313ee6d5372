"""What op-node is answered at the end of a choice, and what is told of it. Part of the multiplexer's machine."""

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadSource
from appliance.engine.builds import BuildRecord, Phase
from appliance.engine.events import EL, BlockReturned, Command, Reply
from appliance.engine.offers import Block, Offer
from appliance.engine.outcomes import apology
from appliance.engine.selection import Selection
from appliance.wire.engine_answers import BuiltPayload
from appliance.wire.engine_bodies import assembled_answer, payload_answer
from appliance.wire.jsonrpc import readdress


def answer(record: BuildRecord, block: Block, identifier: bytes) -> bytes:
    """getPayload's answer to the request with ``identifier``."""
    if isinstance(block, BuiltPayload):
        # The EL's own block is passed on as it is; a builder's must say what op-node will read.
        root = record.order.parent_beacon_block_root if record.chosen_builder is not None else None
        return payload_answer(block, identifier, root)
    return assembled_answer(block, identifier, record.version)


def give_up(record: BuildRecord, selection: Selection) -> list[Command]:
    """There is no block: everybody who asked gets the EL's own words, or an apology."""
    askers, record.askers = record.askers, []
    record.phase = Phase.FAILED
    if record.last_word:
        return [Reply(asker.ticket, _readdressed(record.last_word, asker.identifier)) for asker in askers]
    reason = selection.offers[EL].reason
    return [apology(asker, reason) for asker in askers]


def _readdressed(body: bytes, identifier: bytes) -> bytes:
    try:
        return readdress(body, identifier)
    except DecodeError:
        return body  # the EL's own words, whatever they are


def returned(record: BuildRecord, selection: Selection, offer: Offer, block: Block, now: float) -> BlockReturned:
    """What is told of a choice, for log, metrics and history."""
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
