import pytest
import trio

from appliance.devnet.traffic import KEEP_BEHIND, Traffic
from appliance.devnet.transactions import KnownTransactions, Transaction, Wallet
from tests.devnet.setting import CHAIN_ID, inline, shared_traffic, shared_wallet


class StubWallet(Wallet):
    """Signs without elliptic curves, so that many fit into a test."""

    def sign(self, name: str, nonce: int, *, data: bytes = b"", value: int = 1, tip: int = 1) -> Transaction:
        raw = f"{name} {nonce} {value} {tip}".encode() + data
        return Transaction(raw, raw, self.address(name), nonce, 50_000, 10**10, tip, data)


def stub_traffic(**options: int) -> Traffic:
    return Traffic(StubWallet(KnownTransactions(CHAIN_ID)), accounts=3, **options)


def test_sequence_follows_from_a_chains_nonces() -> None:
    traffic = shared_traffic()
    nonces: dict[bytes, int] = {}
    for sequence in range(20):
        assert traffic.next_sequence(nonces) == sequence
        transaction = traffic.take(sequence)
        assert transaction is not None
        assert transaction.nonce == nonces.get(transaction.sender, 0)
        nonces[transaction.sender] = transaction.nonce + 1


def test_another_accounts_nonce_does_not_count() -> None:
    assert shared_traffic().next_sequence({shared_wallet().address("alice"): 5}) == 0


def test_what_is_not_signed_yet_is_none_and_taking_twice_is_allowed() -> None:
    traffic = stub_traffic()
    assert traffic.take(0) is None
    traffic.sign_now(1)
    assert traffic.take(0) is traffic.take(0) is not None


async def test_signs_ahead_and_stops_until_more_is_asked_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    traffic = stub_traffic(ahead=10)
    nursery.start_soon(traffic.run, inline)
    await traffic.wait_signed(10)
    await trio.sleep(60)
    assert traffic.take(9) is not None
    assert traffic.take(10) is None
    await traffic.wait_signed(21)
    assert traffic.take(20) is not None


async def test_stock_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    traffic = stub_traffic(ahead=10)
    traffic.sign_now(KEEP_BEHIND + 30)
    assert len(traffic._signed) == KEEP_BEHIND + 10
    assert traffic.take(0) is None
    assert traffic.take(KEEP_BEHIND + 29) is not None


async def test_signing_is_paced(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    traffic = stub_traffic(ahead=50)
    start = trio.current_time()
    nursery.start_soon(traffic.run, inline)
    await traffic.wait_signed(50)
    assert trio.current_time() - start == pytest.approx(49 * 0.012, abs=0.02)


async def test_real_signatures_are_made_in_a_thread(nursery: trio.Nursery) -> None:
    traffic = Traffic(shared_wallet(), accounts=1, ahead=1)
    nursery.start_soon(traffic.run)
    await traffic.wait_signed(1)
    transaction = traffic.take(0)
    assert transaction is not None
    assert transaction.sender == shared_wallet().address("user 0")
