"""Transactions that were sent to one client and are in no block yet. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from appliance.devnet.messages import SERVER_ERROR, RpcError
from appliance.devnet.transactions import Transaction

MEMPOOL_LIMIT: Final = 1000


class Mempool:
    """Waiting transactions by sender and nonce; full, it refuses (geth: "txpool is full")."""

    def __init__(self, limit: int = MEMPOOL_LIMIT) -> None:
        self._limit = limit
        self._waiting: dict[tuple[bytes, int], Transaction] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, transaction: Transaction, nonces: Mapping[bytes, int]) -> None:
        """Keep a transaction; RpcError in geth's words when it cannot be executed ever or the pool is full."""
        if transaction.is_deposit:
            raise RpcError(SERVER_ERROR, "transaction type not supported")
        if transaction.nonce < nonces.get(transaction.sender, 0):
            raise RpcError(SERVER_ERROR, "nonce too low")
        if transaction.intrinsic_gas > transaction.gas_limit:
            raise RpcError(SERVER_ERROR, "intrinsic gas too low")
        if (transaction.sender, transaction.nonce) in self._waiting:
            raise RpcError(SERVER_ERROR, "already known")
        if len(self._waiting) >= self._limit:
            raise RpcError(SERVER_ERROR, "txpool is full")
        self._waiting[transaction.sender, transaction.nonce] = transaction

    def ready(self, nonces: Mapping[bytes, int]) -> Iterator[Transaction]:
        """What a block with these nonces can take next; senders in the order in which they came."""
        for sender in list(dict.fromkeys(sender for sender, _nonce in self._waiting)):
            transaction = self._waiting.get((sender, nonces.get(sender, 0)))
            if transaction is not None:
                yield transaction

    def forget_included(self, nonces: Mapping[bytes, int]) -> None:
        """Drop what the canonical chain has executed."""
        done = [key for key in self._waiting if key[1] < nonces.get(key[0], 0)]
        for key in done:
            del self._waiting[key]
