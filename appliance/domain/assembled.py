"""The whole block that the published flashblocks of one payload add up to."""

from dataclasses import dataclass

from appliance.domain.payloads import PayloadId


@dataclass(frozen=True, slots=True)
class AssembledPayload:
    """A candidate for getPayload, made of published flashblocks.

    ``execution_payload`` is the `ExecutionPayload` JSON object as newPayload takes it (V4 shape when the
    flashblocks carry a withdrawals root, else V3). ``transactions`` are the JSON strings (quotes included)
    that subscribers were already promised, in order. ``validated`` says that the local EL has already
    answered VALID for exactly this block. The rest is held against the payload attributes; ``withdrawals`` are
    JSON objects.
    """

    payload_id: PayloadId
    builder: str
    block_number: int
    block_hash: str
    parent_hash: str
    gas_used: int
    timestamp: int
    parent_beacon_block_root: str
    has_withdrawals_root: bool
    execution_payload: bytes
    transactions: tuple[bytes, ...]
    flashblocks: int
    validated: bool
    fee_recipient: str | None = None
    prev_randao: str | None = None
    gas_limit: int | None = None
    withdrawals: tuple[bytes, ...] | None = None
    extra_data: str | None = None
