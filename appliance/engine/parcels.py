"""Parcels for the builders' lanes, and the newPayload bodies that are made when their turn comes."""

from functools import cache

from appliance.engine.events import Announce, Copy, SendInOrder
from appliance.engine.lanes import Parcel
from appliance.engine.offers import Block
from appliance.wire.engine_answers import BuiltPayload
from appliance.wire.engine_bodies import new_payload_request, new_payload_request_of_assembled

_FORKCHOICE = "forkchoice"
_BUILD = "build"


def parcel_of_copy(copy: Copy) -> Parcel:
    """A request of op-node as it came, for every builder."""
    return Parcel(
        make_body=lambda: copy.body,
        size=len(copy.body),
        kind=copy.latest_only,
        replaces=frozenset({copy.latest_only} if copy.latest_only else ()),
        lasting=copy.lasting,
    )


def parcel_of_order(order: SendInOrder) -> Parcel:
    """An order to build; it moves the head too, so forkchoices that still wait are superseded."""
    if not order.builds:
        return _parcel_of_question(order)
    return Parcel(
        make_body=lambda: order.body,
        size=len(order.body),
        call_id=order.call_id,
        kind=_BUILD,
        replaces=frozenset({_BUILD, _FORKCHOICE}),
    )


def _parcel_of_question(order: SendInOrder) -> Parcel:
    """What a builder is asked about the chain; whoever waits is told when it has to give way."""
    return Parcel(
        make_body=lambda: order.body,
        size=len(order.body),
        call_id=order.call_id,
        kind=order.latest_only,
        replaces=frozenset({order.latest_only} if order.latest_only else ()),
        expendable=True,
    )


def parcel_of_announcement(announce: Announce, bodies: "NewPayloadBodies") -> Parcel:
    """newPayload of the block that was chosen; the body is made once, for whichever builder comes first."""
    body = cache(lambda: bodies.of(announce.block, announce.parent_beacon_block_root))
    return Parcel(make_body=body, size=size_of(announce.block))


class NewPayloadBodies:
    """newPayload for either kind of block.

    The last one is kept: a block that was validated is most often the one that is announced next, and for
    3 MB making it again takes 1.4 ms.
    """

    def __init__(self) -> None:
        self._last: tuple[Block, bytes] | None = None

    def of(self, block: Block, parent_beacon_block_root: str | None) -> bytes:
        """The body; raises what wire.engine_bodies raises."""
        if self._last is None or self._last[0] is not block:
            self._last = block, _new_payload_body(block, parent_beacon_block_root)
        return self._last[1]


def _new_payload_body(block: Block, parent_beacon_block_root: str | None) -> bytes:
    if isinstance(block, BuiltPayload):
        return new_payload_request(block, parent_beacon_block_root)
    return new_payload_request_of_assembled(block)


def size_of(block: Block) -> int:
    """About how many bytes its newPayload takes."""
    return len(block.body if isinstance(block, BuiltPayload) else block.execution_payload)
