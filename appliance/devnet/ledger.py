"""The chain that one simulated client knows: which blocks are valid, and which are canonical. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from appliance.devnet.chain import Fork, Header, header_of, next_base_fee
from appliance.devnet.execution import Block, Execution, difference
from appliance.devnet.merkle import EMPTY_LIST_ROOT
from appliance.devnet.messages import (
    INVALID_FORKCHOICE,
    INVALID_PARAMS,
    ZERO_HASH,
    ExecutionPayload,
    ForkchoiceState,
    RpcError,
    hex_data,
    status,
    unhex,
)
from appliance.devnet.transactions import InvalidTransactionError, KnownTransactions
from appliance.domain.payloads import PayloadStatus

BLOCKS_KEPT: Final = 1024  # older ones are forgotten; a devnet never reorganises that far

Lookup = Callable[[str], Block | None]


class Ledger:
    """Blocks by hash, and the canonical chain that forkchoiceUpdated chose among them."""

    def __init__(self, genesis: Block, known: KnownTransactions, fork: Fork = Fork.ISTHMUS) -> None:
        self.fork = fork
        self.known = known
        self.head = genesis
        self.safe_hash = ZERO_HASH
        self.finalized_hash = ZERO_HASH
        self.blocks: dict[str, Block] = {genesis.hash: genesis}
        self.canonical: dict[int, str] = {genesis.number: genesis.hash}

    def new_payload(self, payload: ExecutionPayload, parent_beacon_block_root: str | None) -> dict[str, Any]:
        """Check a block and keep it when it is VALID; `PayloadStatusV1`. RpcError on malformed fields.

        The order is op-geth's: hash, then known, then parent (SYNCING when unknown), then the block itself.
        """
        try:
            header = header_of(payload, parent_beacon_block_root)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f"ExecutionPayload: {error}") from error
        if hex_data(header.hash) != payload.block_hash:
            return _invalid(None, f"blockhash mismatch, want {payload.block_hash}, got {hex_data(header.hash)}")
        if payload.block_hash in self.blocks:
            return status(PayloadStatus.VALID, payload.block_hash)
        parent = self.blocks.get(payload.parent_hash)
        if parent is None:
            return status(PayloadStatus.SYNCING)
        return self._import(header, tuple(map(unhex, payload.transactions)), parent)

    def _import(self, header: Header, transactions: tuple[bytes, ...], parent: Block) -> dict[str, Any]:
        try:
            block = self._execute(header, transactions, parent)
        except InvalidTransactionError as error:
            return _invalid(parent.hash, str(error))
        self._keep(block)
        return status(PayloadStatus.VALID, block.hash)

    def _execute(self, header: Header, transactions: tuple[bytes, ...], parent: Block) -> Block:
        """The block with its state; InvalidTransactionError with the reason when it is not valid."""
        wrong = _header_error(header, parent.header)
        if wrong:
            raise InvalidTransactionError(wrong)
        execution = Execution(parent, header)
        for index, raw in enumerate(transactions):
            try:
                execution.add(self.known.decode(raw))
            except InvalidTransactionError as error:
                raise InvalidTransactionError(f"could not apply tx {index}: {error}") from error
        computed = execution.seal()
        wrong = difference(header, computed.header)
        if wrong:
            raise InvalidTransactionError(wrong)
        return Block(header, transactions, computed.nonces)

    def _keep(self, block: Block) -> None:
        self.blocks[block.hash] = block
        while len(self.blocks) > BLOCKS_KEPT:
            oldest = next(iter(self.blocks))
            del self.blocks[oldest]

    def forkchoice_updated(self, state: ForkchoiceState) -> dict[str, Any]:
        """Make a known block the head; `PayloadStatusV1`. RpcError -38002 on unknown safe or finalized blocks."""
        head = self.blocks.get(state.head_block_hash)
        if head is None:
            return status(PayloadStatus.SYNCING)
        for name, block_hash in (("safe", state.safe_block_hash), ("finalized", state.finalized_block_hash)):
            if block_hash not in (ZERO_HASH, self.safe_hash, self.finalized_hash) and block_hash not in self.blocks:
                raise RpcError(INVALID_FORKCHOICE, f"Invalid forkchoice state: {name} block not available")
        self.safe_hash = state.safe_block_hash
        self.finalized_hash = state.finalized_block_hash
        self._set_head(head)
        return status(PayloadStatus.VALID, head.hash)

    def _set_head(self, head: Block) -> None:
        for number in range(head.number + 1, self.head.number + 1):
            self.canonical.pop(number, None)
        self.head = head
        block: Block | None = head
        while block is not None and self.canonical.get(block.number) != block.hash:
            self.canonical[block.number] = block.hash
            block = self.blocks.get(hex_data(block.header.parent_hash))
        self.canonical.pop(head.number - BLOCKS_KEPT, None)

    def adopt(self, block_hash: str, lookup: Lookup) -> bool:
        """Fetch a block and its missing ancestors from a peer that has executed them, as syncing does."""
        missing: list[Block] = []
        while block_hash not in self.blocks:
            block = lookup(block_hash)
            if block is None or len(missing) >= BLOCKS_KEPT:
                return False
            missing.append(block)
            block_hash = hex_data(block.header.parent_hash)
        for block in reversed(missing):
            self._keep(block)
        return True

    def by_number(self, name: str) -> Block | None:
        """The canonical block that a JSON-RPC block parameter names; ValueError when it is no such name."""
        named: Mapping[str, str] = {
            "latest": self.head.hash,
            "pending": self.head.hash,
            "safe": self.safe_hash,
            "finalized": self.finalized_hash,
            "earliest": self.canonical[min(self.canonical)],
        }
        block_hash = named.get(name) or self.canonical.get(int(name, 16), "")
        return self.blocks.get(block_hash)


def _header_error(header: Header, parent: Header) -> str | None:
    if header.number != parent.number + 1:
        return f"invalid block number: have {header.number}, want {parent.number + 1}"
    if header.timestamp <= parent.timestamp:
        return f"invalid timestamp, parent: {parent.timestamp}, given: {header.timestamp}"
    if header.gas_used > header.gas_limit:
        return f"invalid gasUsed: have {header.gas_used}, gasLimit {header.gas_limit}"
    expected = next_base_fee(parent)
    if header.base_fee != expected:
        return f"invalid baseFee: have {header.base_fee}, want {expected}"
    if header.withdrawals_root not in (None, EMPTY_LIST_ROOT):  # nobody withdraws in a devnet
        return "invalid withdrawals root"
    if header.blob_gas_used or header.excess_blob_gas:
        return "invalid blob gas: there are no blobs on this chain"
    return None


def _invalid(latest_valid_hash: str | None, error: str) -> dict[str, Any]:
    return status(PayloadStatus.INVALID, latest_valid_hash, error)
