"""Choosing transactions for a block in the making. Pure."""

from appliance.devnet.execution import Execution
from appliance.devnet.mempool import Mempool
from appliance.devnet.traffic import Traffic
from appliance.devnet.transactions import InvalidTransactionError


def extend(execution: Execution, mempool: Mempool, traffic: Traffic | None, count: int) -> int:
    """Add up to `count` transactions, those that were sent to this client first; how many were added."""
    added = _from_mempool(execution, mempool, count)
    while traffic is not None and added < count:
        transaction = traffic.take(traffic.next_sequence(execution.nonces))
        if transaction is None:
            break
        try:
            execution.add(transaction)
        except InvalidTransactionError:  # the block is full
            break
        added += 1
    return added


def _from_mempool(execution: Execution, mempool: Mempool, count: int) -> int:
    added = 0
    for transaction in mempool.ready(execution.nonces):
        if added == count:
            break
        try:
            execution.add(transaction)
        except InvalidTransactionError:  # it waits: the block is full or its fee too low
            continue
        added += 1
    return added
