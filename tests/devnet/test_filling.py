from appliance.devnet.chain import Fork
from appliance.devnet.execution import Execution, header_to_build
from appliance.devnet.filling import extend
from appliance.devnet.mempool import Mempool
from appliance.devnet.messages import PayloadAttributes, decode_as
from tests.devnet.setting import attributes, fresh_ledger, shared_traffic, shared_wallet


def fresh_execution(gas_limit: int = 60_000_000) -> Execution:
    head = fresh_ledger().head
    wanted = decode_as(PayloadAttributes, attributes(head, gasLimit=hex(gas_limit)))
    return Execution(head, header_to_build(head.header, wanted, Fork.ISTHMUS))


def test_takes_the_traffic_in_its_order() -> None:
    execution = fresh_execution()
    assert extend(execution, Mempool(), shared_traffic(), 3) == 3
    assert extend(execution, Mempool(), shared_traffic(), 2) == 2
    assert execution.transactions == [shared_traffic().take(sequence) for sequence in range(5)]


def test_sent_transactions_go_first_and_count() -> None:
    execution, pool = fresh_execution(), Mempool()
    sent = shared_wallet().sign("frank", 0)
    pool.add(sent, {})
    assert extend(execution, pool, shared_traffic(), 3) == 3
    assert execution.transactions == [sent, shared_traffic().take(0), shared_traffic().take(1)]
    assert extend(execution, pool, None, 3) == 0, "it is in the block already"


def test_no_more_than_asked_for() -> None:
    pool = Mempool()
    for name in ("gina", "hugo"):
        pool.add(shared_wallet().sign(name, 0), {})
    assert extend(fresh_execution(), pool, shared_traffic(), 1) == 1


def test_full_block_takes_no_more() -> None:
    execution = fresh_execution(gas_limit=50_000)
    added = extend(execution, Mempool(), shared_traffic(), 10)
    assert 0 < added < 3
    assert extend(execution, Mempool(), shared_traffic(), 10) == 0
    assert execution.gas_used <= 50_000


def test_sent_transaction_that_does_not_fit_waits() -> None:
    execution, pool = fresh_execution(gas_limit=25_000), Mempool()
    pool.add(shared_wallet().sign("ivan", 0, data=b"\x01" * 500), {})
    assert extend(execution, pool, None, 5) == 0
    assert len(pool) == 1


def test_without_traffic_nothing_is_added() -> None:
    assert extend(fresh_execution(), Mempool(), None, 5) == 0


def test_traffic_that_is_not_signed_yet_is_not_waited_for() -> None:
    execution = fresh_execution()
    added = extend(execution, Mempool(), shared_traffic(), 1000)
    assert 0 < added < 1000
    assert extend(execution, Mempool(), shared_traffic(), 1) == 0
