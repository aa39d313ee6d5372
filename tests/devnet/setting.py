"""What the tests share: one signed traffic, clients on a fresh chain, attributes as op-node sends them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from appliance.devnet.builder import BuilderSettings, SimulatedBuilder
from appliance.devnet.chain import Fork
from appliance.devnet.execution import Block, genesis
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.ledger import Ledger
from appliance.devnet.messages import hex_data
from appliance.devnet.traffic import Traffic
from appliance.devnet.transactions import KnownTransactions, L1Origin, Wallet, l1_attributes_deposit

DATA = Path(__file__).parents[1] / "data"
CHAIN_ID = 901
GENESIS_TIME = 1_700_000_000
SIGNED = 60
DEPOSIT = l1_attributes_deposit(L1Origin(1, GENESIS_TIME, bytes(31) + b"\x01"), 0)


def load(name: str) -> Any:
    """A JSON file of the test data."""
    return json.loads((DATA / name).read_text())


@cache
def shared_wallet() -> Wallet:
    """One wallet for the test process: deriving and signing in pure Python is slow."""
    return Wallet(KnownTransactions(CHAIN_ID))


@cache
def shared_known() -> KnownTransactions:
    """The transactions that `shared_wallet` has signed."""
    return shared_wallet()._known


@cache
def shared_traffic() -> Traffic:
    """Sixty signed transactions, the same in each run."""
    traffic = Traffic(shared_wallet())
    traffic.sign_now(SIGNED)
    return traffic


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """`run_sync` for a virtual clock: no thread, so that time does not jump while it works."""
    return function(*args)


def fresh_ledger(fork: Fork = Fork.ISTHMUS, number: int = 0) -> Ledger:
    """A chain that has its genesis only."""
    return Ledger(genesis(GENESIS_TIME, number=number, fork=fork), shared_known(), fork)


def make_el(**options: Any) -> SimulatedExecutionClient:
    """An execution client on a fresh chain, with traffic."""
    options = {"traffic": shared_traffic(), "run_sync": inline, **options}
    return SimulatedExecutionClient(options.pop("ledger", None) or fresh_ledger(), **options)


def make_builder(settings: BuilderSettings | None = None, **options: Any) -> SimulatedBuilder:
    """A builder on a fresh chain, with traffic."""
    options = {"traffic": shared_traffic(), "run_sync": inline, "wallet": shared_wallet(), **options}
    ledger = options.pop("ledger", None) or fresh_ledger()
    return SimulatedBuilder(ledger, settings=settings, **options)


def attributes(parent: Block, **changes: Any) -> dict[str, Any]:
    """Isthmus attributes for the block after `parent`; None as a change leaves a field out."""
    fields = {
        "timestamp": hex(parent.header.timestamp + 2),
        "prevRandao": "0x" + "07" * 32,
        "suggestedFeeRecipient": "0x4200000000000000000000000000000000000011",
        "withdrawals": [],
        "parentBeaconBlockRoot": "0x" + "0b" * 32,
        "transactions": [hex_data(DEPOSIT)],
        "noTxPool": False,
        "gasLimit": hex(60_000_000),
        "eip1559Params": "0x000000fa00000006",
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def forkchoice(head: str) -> dict[str, str]:
    """A forkchoice state whose safe and finalized blocks are not known yet."""
    return {"headBlockHash": head, "safeBlockHash": "0x" + "00" * 32, "finalizedBlockHash": "0x" + "00" * 32}


async def start_build(client: SimulatedExecutionClient, **changes: Any) -> str:
    """Ask for a block on the client's head; the payload id."""
    params = [forkchoice(client.head.hash), attributes(client.head, **changes)]
    answer = await client.call("engine_forkchoiceUpdatedV3", params)
    assert answer["payloadStatus"]["status"] == "VALID"
    return str(answer["payloadId"])


def new_payload_params(envelope: dict[str, Any]) -> list[Any]:
    """newPayloadV4's parameters for an answer of getPayloadV4."""
    return [envelope["executionPayload"], [], envelope["parentBeaconBlockRoot"], []]


async def insert(client: SimulatedExecutionClient, envelope: dict[str, Any]) -> None:
    """Make a built block the client's head."""
    status = await client.call("engine_newPayloadV4", new_payload_params(envelope))
    assert status["status"] == "VALID", status
    head = envelope["executionPayload"]["blockHash"]
    answer = await client.call("engine_forkchoiceUpdatedV3", [forkchoice(head), None])
    assert answer["payloadStatus"]["status"] == "VALID"
