"""The block that the first flashblocks of a payload add up to.

Base's fields, the last diff's cumulative roots, bloom, gas and hash, and all transactions and withdrawals
in order (REFERENCE 3). Transactions are sliced from the messages, never re-encoded.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock, FlashblockBase, FlashblockDiff

_NO_BLOB_GAS: Final = "0x0"


class _ExecutionPayload(msgspec.Struct, rename="camel", omit_defaults=True):
    """`ExecutionPayloadV4` of OP Stack; V3 when `withdrawals_root` is absent, which leaves the key out."""

    parent_hash: str
    fee_recipient: str
    state_root: str
    receipts_root: str
    logs_bloom: str
    prev_randao: str
    block_number: str
    gas_limit: str
    gas_used: str
    timestamp: str
    extra_data: str
    base_fee_per_gas: str
    block_hash: str
    transactions: list[msgspec.Raw]
    withdrawals: list[msgspec.Raw]
    blob_gas_used: str
    excess_blob_gas: str
    withdrawals_root: str | None = None


_encoder = msgspec.json.Encoder()


def assemble(
    flashblocks: Sequence[Flashblock], *, builder: str, validated: bool = False, begun: AssembledPayload | None = None
) -> AssembledPayload | None:
    """The block of ``flashblocks``, which are one payload's from index 0 on, contiguous.

    None when they are no block: there are none, index 0 has no base, or one of them has no whole diff. ``begun`` is
    the block of the first of them, where that is at hand: its transactions are not copied again.
    """
    diffs = [flashblock.diff for flashblock in flashblocks if flashblock.diff is not None]
    base = flashblocks[0].base if flashblocks else None
    if base is None or len(diffs) < len(flashblocks):
        return None
    known, fresh = (begun.transactions, diffs[begun.flashblocks :]) if begun else ((), diffs)
    return AssembledPayload(
        payload_id=flashblocks[0].payload_id,
        builder=builder,
        block_number=int(base.block_number, 16),
        block_hash=diffs[-1].block_hash,
        parent_hash=base.parent_hash,
        gas_used=int(diffs[-1].gas_used, 16),
        timestamp=int(base.timestamp, 16),
        parent_beacon_block_root=base.parent_beacon_block_root,
        has_withdrawals_root=diffs[-1].withdrawals_root is not None,
        execution_payload=_encoder.encode(_execution_payload(base, diffs)),
        transactions=known + tuple(bytes(transaction) for diff in fresh for transaction in diff.transactions),
        flashblocks=len(flashblocks),
        validated=validated,
        fee_recipient=base.fee_recipient,
        prev_randao=base.prev_randao,
        gas_limit=int(base.gas_limit, 16),
        withdrawals=tuple(bytes(withdrawal) for diff in diffs for withdrawal in diff.withdrawals),
        extra_data=base.extra_data,
    )


def _execution_payload(base: FlashblockBase, diffs: Sequence[FlashblockDiff]) -> _ExecutionPayload:
    last = diffs[-1]
    return _ExecutionPayload(
        parent_hash=base.parent_hash,
        fee_recipient=base.fee_recipient,
        state_root=last.state_root,
        receipts_root=last.receipts_root,
        logs_bloom=last.logs_bloom,
        prev_randao=base.prev_randao,
        block_number=base.block_number,
        gas_limit=base.gas_limit,
        gas_used=last.gas_used,
        timestamp=base.timestamp,
        extra_data=base.extra_data,
        base_fee_per_gas=base.base_fee_per_gas,
        block_hash=last.block_hash,
        transactions=[transaction for diff in diffs for transaction in diff.transactions],
        withdrawals=[withdrawal for diff in diffs for withdrawal in diff.withdrawals],
        blob_gas_used=last.blob_gas_used or _NO_BLOB_GAS,
        excess_blob_gas=_NO_BLOB_GAS,
        withdrawals_root=last.withdrawals_root,
    )
