"""A provider group in front of real nodes, and what happens to those: each failure by its name."""

import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest
import trio
import trio_websocket
from eth_account import Account

from tests.real.anvil import CHAIN_ID, KEY, Anvil, mine_together
from tests.real.providers_process import ProvidersProcess
from tests.real.rpc import RpcClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

AGE_S: Final = 600  # of the chain's first block: those that the tests mine are in the past, and not old
BLOCK_TIME_S: Final = 12


@dataclass
class World:
    """Two nodes with one chain, and a group in front of them."""

    main: Anvil
    backup: Anvil
    appliance: ProvidersProcess
    genesis_time: int
    height: int = 0

    @property
    def living(self) -> list[Anvil]:
        return [node for node in (self.main, self.backup) if node.process.running]

    def mine(self, *nodes: Anvil, count: int = 1) -> list[str]:
        """Blocks on these nodes, on both if none is named; their hashes."""
        hashes = []
        for _ in range(count):
            self.height += 1
            hashes.append(mine_together(list(nodes) or self.living, self.time(self.height)))
        return hashes

    def catch_up(self, node: Anvil) -> None:
        """The blocks that it has not mined yet: the same ones."""
        for number in range(int(node.head()["number"], 16) + 1, self.height + 1):
            node.mine(self.time(number))

    def time(self, number: int) -> int:
        return self.genesis_time + BLOCK_TIME_S * number


@pytest.fixture(params=[("ws", "ws"), ("http", "http"), ("ws", "http")], ids="-".join)
def world(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[World]:
    genesis_time = int(time.time()) - AGE_S
    main, backup = (Anvil(name, tmp_path, genesis_time=genesis_time) for name in ("main", "backup"))
    urls = {
        node.name: node.websocket_url if scheme == "ws" else node.url
        for node, scheme in zip((main, backup), request.param, strict=True)
    }
    with main, backup, ProvidersProcess(tmp_path / "appliance", urls) as appliance:
        there = World(main, backup, appliance, genesis_time)
        there.mine(count=2)
        appliance.wait_heads(main, backup)
        yield there


def test_a_killed_node_is_left_and_used_again_when_it_is_back(world: World) -> None:
    world.main.kill()
    assert world.appliance.rpc.call("eth_getBlockByNumber", "0x1", False)["hash"]
    world.appliance.wait_active(world.backup)
    world.mine()
    assert world.appliance.rpc.call("eth_blockNumber") == "0x3"
    world.main.start()
    world.catch_up(world.main)
    world.appliance.wait_active(world.main)
    assert world.appliance.endpoint("main")["state"] == "well"


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_no_read_is_lost_when_a_node_fails_under_load(world: World, how: str) -> None:
    answers: list[str] = []

    def ask_often() -> None:
        client = RpcClient(world.appliance.rpc.url)
        answers.extend(client.call("eth_getBlockByNumber", "0x1", False)["number"] for _ in range(150))
        client.close()

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_often) for _ in range(8)]
        world.appliance.wait_until(lambda: len(answers) > 200)
        getattr(world.main, how)()
        for each in asking:
            each.result()
    assert answers == ["0x1"] * 1200
    assert world.appliance.status()["active"] == "backup"


def test_a_node_that_hangs_is_found_by_its_timeout(world: World) -> None:
    world.main.hang()
    assert world.appliance.rpc.call("eth_chainId") == hex(CHAIN_ID)
    world.appliance.wait_active(world.backup)
    world.main.resume()
    world.appliance.wait_active(world.main)


def test_a_node_whose_head_stands_still_is_left(world: World) -> None:
    world.mine(world.backup, count=3)
    world.appliance.wait_active(world.backup)
    assert world.appliance.endpoint("main")["explain"] == "head 2 is 3 blocks behind 5"
    assert world.appliance.rpc.call("eth_blockNumber") == "0x5"
    world.catch_up(world.main)
    world.appliance.wait_active(world.main)


def test_dropped_transactions_are_counted_and_mined_or_replaced_ones_are_not(world: World) -> None:
    kept = world.appliance.rpc.call("eth_sendRawTransaction", signed(0, fee_gwei=10))
    transactions = world.appliance.status
    world.appliance.wait_until(lambda: transactions()["transactions"]["seen_pending"] == 1)
    replacement = world.appliance.rpc.call("eth_sendRawTransaction", signed(0, fee_gwei=20))
    assert replacement != kept
    world.appliance.wait_until(lambda: transactions()["transactions"]["replaced"] == 1)
    world.backup.send_transaction(signed(0, fee_gwei=20))
    world.mine()
    world.appliance.wait_until(lambda: transactions()["transactions"]["mined"] == 1)
    assert world.appliance.metric('eth_mempool_drops{provider="main"}') == 0
    for count in (1, 2):
        dropped = world.appliance.rpc.call("eth_sendRawTransaction", signed(1, fee_gwei=10 + count))
        world.main.drop_transaction(dropped)
        world.appliance.wait_until(partial(has_dropped, world.appliance, count))
    assert world.appliance.metric('eth_mempool_drops{provider="main"}') == 2
    world.appliance.wait_active(world.backup)


@pytest.mark.parametrize("how", ["kill", "hang"])
async def test_new_heads_through_a_failover_and_back_without_a_missing_block(world: World, how: str) -> None:
    async with trio_websocket.open_websocket_url(world.appliance.websocket_url) as client:
        await subscribe(client, "newHeads")
        expected = world.mine(count=3)
        getattr(world.main, how)()
        expected += world.mine(world.backup, count=4)
        assert await heads(client, 7) == expected
        await trio.to_thread.run_sync(world.appliance.wait_active, world.backup)
        if how == "kill":
            world.main.start()
        else:
            world.main.resume()
        world.catch_up(world.main)
        await trio.to_thread.run_sync(world.appliance.wait_active, world.main)
        expected = world.mine(count=3)
        assert await heads(client, 3) == expected


def has_dropped(appliance: ProvidersProcess, count: int) -> bool:
    return bool(appliance.status()["transactions"]["dropped"] == count)


def signed(nonce: int, fee_gwei: int) -> str:
    transaction = {
        "chainId": CHAIN_ID,
        "nonce": nonce,
        "to": "0x" + "11" * 20,
        "value": 1,
        "gas": 21000,
        "maxFeePerGas": fee_gwei * 10**9,
        "maxPriorityFeePerGas": fee_gwei * 10**9,
    }
    return str(Account.sign_transaction(transaction, KEY).raw_transaction.to_0x_hex())


async def subscribe(client: trio_websocket.WebSocketConnection, *params: object) -> None:
    await client.send_message(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": params}))
    answer = await next_message(client)
    assert "result" in answer, answer


async def heads(client: trio_websocket.WebSocketConnection, count: int) -> list[str]:
    """The hashes of the next heads."""
    return [(await next_message(client))["params"]["result"]["hash"] for _ in range(count)]


async def next_message(client: trio_websocket.WebSocketConnection) -> dict[str, Any]:
    with trio.fail_after(60):
        message: dict[str, Any] = json.loads(await client.get_message())
    return message
