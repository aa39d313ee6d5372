"""Executing a block in the simulation: nonces, gas, receipts and a state root that all clients agree on.

There is no EVM. Each transaction succeeds and uses its intrinsic gas; accounts have endless funds. The
state root is keccak(parent's state root, transactions root, timestamp): any client that has the parent
can recompute it, and a block that claims another is INVALID.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from appliance.devnet.chain import (
    EMPTY_BLOOM,
    ZERO_ROOT,
    Fork,
    Header,
    extra_data_of,
    next_base_fee,
    payload_of,
    with_fork_fields,
)
from appliance.devnet.merkle import Rlp, keccak, list_root, rlp_encode, rlp_integer
from appliance.devnet.messages import ExecutionPayload, PayloadAttributes, hex_data, quantity, unhex
from appliance.devnet.transactions import DEPOSIT_TYPE, InvalidTransactionError, Transaction

MAX_DEPOSIT_GAS = 50_000
EMPTY_BLOOM_HEX = hex_data(EMPTY_BLOOM)


@dataclass(frozen=True)
class Block:
    """A block with the state after it: the next nonce of each account that ever sent.

    `claimed_hash` is set only by a fault: the hash that is shown in the header's place.
    """

    header: Header
    transactions: tuple[bytes, ...]
    nonces: Mapping[bytes, int]
    claimed_hash: str | None = None

    @property
    def hash(self) -> str:
        """The block's hash as the wire has it."""
        return self.claimed_hash or hex_data(self.header.hash)

    @property
    def number(self) -> int:
        """The block's number."""
        return self.header.number

    def payload(self) -> ExecutionPayload:
        """The block as newPayload takes it."""
        payload = payload_of(self.header, self.transactions)
        return msgspec.structs.replace(payload, block_hash=self.hash)

    @property
    def parent_beacon_block_root(self) -> str | None:
        """As newPayloadV3 takes it beside the payload; None before Ecotone."""
        root = self.header.parent_beacon_block_root
        return None if root is None else hex_data(root)


def genesis(timestamp: int, *, number: int = 0, gas_limit: int = 60_000_000, fork: Fork = Fork.ISTHMUS) -> Block:
    """The block that a devnet starts from; `timestamp` in seconds since 1970."""
    header = Header(
        parent_hash=ZERO_ROOT,
        miner=bytes(20),
        state_root=keccak(b"appliance devnet"),
        transactions_root=list_root([]),
        receipts_root=list_root([]),
        logs_bloom=EMPTY_BLOOM,
        number=number,
        gas_limit=gas_limit,
        gas_used=0,
        timestamp=timestamp,
        extra_data=extra_data_of(bytes(8), None),
        prev_randao=ZERO_ROOT,
        base_fee=1_000_000,
    )
    return Block(with_fork_fields(header, fork, None), (), {})


def header_to_build(parent: Header, attributes: PayloadAttributes, fork: Fork) -> Header:
    """The fixed part of the block that `attributes` ask for on `parent`; roots and gas used come later.

    ValueError when an attribute is malformed.
    """
    params = attributes.eip1559_params
    minimum = attributes.min_base_fee
    limit = attributes.gas_limit
    header = Header(
        parent_hash=parent.hash,
        miner=unhex(attributes.suggested_fee_recipient),
        state_root=ZERO_ROOT,
        transactions_root=ZERO_ROOT,
        receipts_root=ZERO_ROOT,
        logs_bloom=EMPTY_BLOOM,
        number=parent.number + 1,
        gas_limit=parent.gas_limit if limit is None else quantity(limit),
        gas_used=0,
        timestamp=quantity(attributes.timestamp),
        extra_data=extra_data_of(unhex(params) if params else None, None if minimum is None else quantity(minimum)),
        prev_randao=unhex(attributes.prev_randao),
        base_fee=next_base_fee(parent),
    )
    root = attributes.parent_beacon_block_root
    return with_fork_fields(header, fork, unhex(root) if root else None)


class Execution:
    """A block in the making: transactions go in one by one, `seal` gives the block so far.

    `template` is the header with everything that transactions do not change.
    """

    def __init__(self, parent: Block, template: Header) -> None:
        self.template = template
        self._parent = parent
        self.transactions: list[Transaction] = []
        self.nonces: dict[bytes, int] = dict(parent.nonces)
        self.gas_used = 0
        self.tips = 0  # in wei: the block's value
        self._receipts: list[bytes] = []
        self._cumulative: list[int] = []

    def add(self, transaction: Transaction) -> None:
        """Execute one more; InvalidTransactionError, and nothing changed, when the block cannot hold it."""
        gas = self._deposit_gas(transaction) if transaction.is_deposit else self._charge(transaction)
        self.gas_used += gas
        self.transactions.append(transaction)
        self._cumulative.append(self.gas_used)
        self._receipts.append(_receipt(transaction, self.gas_used))

    def add_all(self, transactions: Iterable[Transaction]) -> None:
        """Execute each in turn."""
        for transaction in transactions:
            self.add(transaction)

    def _deposit_gas(self, transaction: Transaction) -> int:
        if self.transactions and not self.transactions[-1].is_deposit:
            raise InvalidTransactionError("deposit transaction after a user transaction")
        return self._fitting(min(transaction.gas_limit, MAX_DEPOSIT_GAS))

    def _charge(self, transaction: Transaction) -> int:
        expected = self.nonces.get(transaction.sender, 0)
        if transaction.nonce != expected:
            order = "low" if transaction.nonce < expected else "high"
            raise InvalidTransactionError(f"nonce too {order}: tx {transaction.nonce} state {expected}")
        if transaction.max_fee < self.template.base_fee:
            raise InvalidTransactionError("max fee per gas less than block base fee")
        gas = transaction.intrinsic_gas
        if gas > transaction.gas_limit:
            raise InvalidTransactionError(f"intrinsic gas too low: have {transaction.gas_limit}, want {gas}")
        self._fitting(gas)
        self.nonces[transaction.sender] = expected + 1
        self.tips += gas * min(transaction.max_tip, transaction.max_fee - self.template.base_fee)
        return gas

    def _fitting(self, gas: int) -> int:
        if self.gas_used + gas > self.template.gas_limit:
            raise InvalidTransactionError("gas limit reached")
        return gas

    def seal(self) -> Block:
        """The block of what was added so far."""
        raw = tuple(transaction.raw for transaction in self.transactions)
        root = list_root(raw)
        header = replace(
            self.template,
            transactions_root=root,
            receipts_root=list_root(self._receipts),
            logs_bloom=EMPTY_BLOOM,
            state_root=_state_root(self._parent.header, root, self.template.timestamp),
            gas_used=self.gas_used,
        )
        return Block(header, raw, dict(self.nonces))

    def receipts_json(self, start: int) -> dict[str, Any]:
        """Receipts from transaction `start` on, by hash, tagged outside as op-rbuilder's metadata has them."""
        pairs = zip(self.transactions[start:], self._cumulative[start:], strict=True)
        return {hex_data(transaction.hash): _receipt_json(transaction, used) for transaction, used in pairs}


def difference(claimed: Header, computed: Header) -> str | None:
    """What of a block does not follow from its parent and transactions, or None; geth's wording."""
    checks = (
        ("gas used", claimed.gas_used, computed.gas_used),
        ("receipts root", hex_data(claimed.receipts_root), hex_data(computed.receipts_root)),
        ("logs bloom", hex_data(claimed.logs_bloom), hex_data(computed.logs_bloom)),
        ("state root", hex_data(claimed.state_root), hex_data(computed.state_root)),
    )
    for name, remote, local in checks:
        if remote != local:
            return f"invalid {name} (remote: {remote} local: {local})"
    return None


def _state_root(parent: Header, transactions_root: bytes, timestamp: int) -> bytes:
    return keccak(parent.state_root + transactions_root + timestamp.to_bytes(8, "big"))


def _receipt(transaction: Transaction, cumulative_gas: int) -> bytes:
    """A successful receipt without logs; deposits add nonce and version (OP specs, Canyon)."""
    fields: list[Rlp] = [b"\x01", rlp_integer(cumulative_gas), EMPTY_BLOOM, []]
    if transaction.is_deposit:
        fields += [rlp_integer(transaction.nonce), b"\x01"]
    kind = DEPOSIT_TYPE if transaction.is_deposit else transaction.raw[0]
    return bytes((kind,)) + rlp_encode(fields)


def _receipt_json(transaction: Transaction, cumulative_gas: int) -> dict[str, Any]:
    receipt: dict[str, Any] = {"status": "0x1", "cumulativeGasUsed": hex(cumulative_gas), "logs": []}
    if transaction.is_deposit:
        return {"Deposit": {**receipt, "depositNonce": hex(transaction.nonce), "depositReceiptVersion": "0x1"}}
    return {"Eip1559": receipt}
