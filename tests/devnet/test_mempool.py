import pytest

from appliance.devnet.mempool import Mempool
from appliance.devnet.messages import RpcError
from appliance.devnet.transactions import Transaction
from tests.devnet.setting import DEPOSIT, shared_known

ALICE, BOB = b"a" * 20, b"b" * 20


def transaction(sender: bytes, nonce: int, gas_limit: int = 21_000) -> Transaction:
    return Transaction(b"", b"", sender, nonce, gas_limit, 1, 1, b"")


def test_ready_is_each_senders_next() -> None:
    pool = Mempool()
    for each in (transaction(ALICE, 1), transaction(ALICE, 0), transaction(BOB, 3)):
        pool.add(each, {})
    assert [(each.sender, each.nonce) for each in pool.ready({})] == [(ALICE, 0)]
    assert [(each.sender, each.nonce) for each in pool.ready({ALICE: 1, BOB: 3})] == [(ALICE, 1), (BOB, 3)]


def test_ready_follows_nonces_that_change_while_it_is_read() -> None:
    pool = Mempool()
    nonces = {ALICE: 0, BOB: 0}
    pool.add(transaction(ALICE, 0), {})
    pool.add(transaction(BOB, 0), {})
    taken = []
    for each in pool.ready(nonces):
        taken.append(each.sender)
        nonces[each.sender] += 1
    assert taken == [ALICE, BOB]


def test_included_transactions_are_forgotten() -> None:
    pool = Mempool()
    for nonce in range(3):
        pool.add(transaction(ALICE, nonce), {})
    pool.forget_included({ALICE: 2})
    assert len(pool) == 1
    assert [each.nonce for each in pool.ready({ALICE: 2})] == [2]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (transaction(ALICE, 0), "nonce too low"),
        (transaction(ALICE, 1), "already known"),
        (transaction(ALICE, 2, gas_limit=20_999), "intrinsic gas too low"),
        (transaction(ALICE, 2), "txpool is full"),
    ],
)
def test_refusals_in_geths_words(refused: Transaction, reason: str) -> None:
    pool = Mempool(limit=1)
    pool.add(transaction(ALICE, 1), {ALICE: 1})
    with pytest.raises(RpcError, match=reason) as caught:
        pool.add(refused, {ALICE: 1})
    assert caught.value.code == -32000


def test_deposit_is_not_for_users_to_send() -> None:
    with pytest.raises(RpcError, match="type not supported"):
        Mempool().add(shared_known().decode(DEPOSIT), {})
