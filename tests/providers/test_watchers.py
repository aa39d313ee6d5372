"""Looking after transactions, at an endpoint that knows what a test says."""

import msgspec
import pytest
import trio
from trio.testing import MockClock

from appliance.domain.errors import UnavailableError
from appliance.providers.links import Attempt
from appliance.providers.watchers import look_for_ever
from appliance.wire.jsonrpc import Response
from tests.providers.test_group import Behaviour, answers, group_of, result


class Pool:
    """What an endpoint says of transactions: by hash, None when unknown."""

    def __init__(self) -> None:
        self.transactions: dict[str, dict[str, object] | None] = {}
        self.next_nonce = "0x0"
        self.sent = 0

    async def __call__(self, attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
        attempt.sent = True
        match attempt.method:
            case "eth_sendRawTransaction":
                self.sent += 1
                transaction_hash = hex(self.sent)
                self.transactions[transaction_hash] = {"from": "0xaa", "nonce": "0x0", "blockNumber": None}
                return result(transaction_hash)
            case "eth_getTransactionByHash":
                return result(self.transactions.get(msgspec.json.decode(attempt.params)[0]))
            case "eth_getTransactionCount":
                assert attempt.params == b'["0xaa","pending"]'
                return result(self.next_nonce)
        return result(None)


async def watched(pool: Pool, nursery: trio.Nursery, other: Behaviour | None = None) -> dict[str, object]:
    """A transaction was sent; the statistics after some rounds of looking."""
    group, _ = group_of(pool, other or answers(result(None)))
    nursery.start_soon(look_for_ever, group)
    await group.call("eth_sendRawTransaction", b'["0x02"]')
    await trio.sleep(1)
    pool.transactions.update(GONE)
    await trio.sleep(30)
    return group.watch.statistics()


GONE: dict[str, dict[str, object] | None] = {}


@pytest.fixture(autouse=True)
def _nothing_is_gone() -> None:
    GONE.clear()


async def test_one_that_stays_pending_is_watched_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    found = await watched(Pool(), nursery)
    assert (found["watched"], found["seen_pending"], found["dropped"]) == (1, 1, 0)


async def test_one_that_is_gone_was_dropped(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    GONE["0x1"] = None
    found = await watched(Pool(), nursery)
    assert (found["watched"], found["dropped"]) == (0, 1)


async def test_one_that_is_mined_was_not(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    GONE["0x1"] = {"from": "0xaa", "nonce": "0x0", "blockNumber": "0x7"}
    found = await watched(Pool(), nursery)
    assert (found["mined"], found["dropped"]) == (1, 0)


async def test_one_whose_nonce_another_took_was_replaced(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    GONE["0x1"] = None
    pool = Pool()
    pool.next_nonce = "0x1"
    found = await watched(pool, nursery)
    assert (found["replaced"], found["dropped"]) == (1, 0)


async def test_one_that_another_endpoint_has_in_a_block_was_mined(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    GONE["0x1"] = None
    mined = answers(result({"from": "0xaa", "nonce": "0x0", "blockNumber": "0x7"}))
    found = await watched(Pool(), nursery, mined)
    assert (found["mined"], found["dropped"]) == (1, 0)


async def test_an_endpoint_that_does_not_say_drops_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    group, (link, _) = group_of(Pool(), answers(result(None)))
    nursery.start_soon(look_for_ever, group)
    await group.call("eth_sendRawTransaction", b'["0x02"]')
    link.behaviour = answers((503, None))
    await trio.sleep(60)
    assert group.watch.statistics()["dropped"] == 0


async def test_a_hung_endpoint_does_not_hold_up_the_looks_at_another(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def hang(attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        await trio.sleep(timeout_s)
        raise UnavailableError("no answer")

    lost = Pool()
    group, (link, _) = group_of(Pool(), lost)
    for number in range(50):
        group.watch.accepted("n0", hex(number), 0.0)
    nursery.start_soon(look_for_ever, group)
    await trio.sleep(1)
    link.behaviour = hang
    for number in range(50, 53):
        lost.transactions[hex(number)] = None
        group.watch.accepted("n1", hex(number), 0.0)
    await trio.sleep(60)
    assert group.watch.statistics()["dropped"] == 3


async def test_a_hung_endpoint_does_not_hold_up_the_greeting_at_another(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def hang(attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        await trio.sleep(timeout_s)
        raise UnavailableError("no answer")

    group, _ = group_of(hang, Pool())
    nursery.start_soon(look_for_ever, group)
    for number in range(5):
        group.watch.accepted("n0", hex(number), 0.0)
    await group.call("eth_sendRawTransaction", b'["0x02"]')
    await trio.sleep(0.1)
    assert {each.endpoint for each in group.watch.newcomers()} == {"n0"}
