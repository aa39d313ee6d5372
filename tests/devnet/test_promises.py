"""What the devnet promises to those who are tested with it, under random input."""

from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.devnet.builder import BuilderSettings
from appliance.devnet.capture import CapturedPayload
from appliance.devnet.chain import Fork, header_of
from appliance.devnet.engine_api import BuildJob, EngineApi
from appliance.devnet.execution import Block
from appliance.devnet.faults import Fault
from appliance.devnet.filling import extend
from appliance.devnet.ledger import Ledger
from appliance.devnet.messages import ForkchoiceState, RpcError, hex_data
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.wire import flashblock as wire
from tests.devnet.setting import (
    attributes,
    forkchoice,
    fresh_ledger,
    insert,
    make_builder,
    make_el,
    new_payload_params,
    shared_known,
    shared_traffic,
    start_build,
)

HARMLESS = (Fault.MUTE, Fault.GAPS, Fault.EQUIVOCATES, Fault.GARBAGE, Fault.LATE, Fault.EARLY, Fault.EMPTY)


def build(ledger: Ledger, users: int, **changes: Any) -> Block:
    jobs: list[BuildJob] = []
    api = EngineApi(ledger, name="test", on_build=jobs.append)
    api.call("engine_forkchoiceUpdatedV3", [forkchoice(ledger.head.hash), attributes(ledger.head, **changes)])
    extend(jobs[0].execution, api.mempool, shared_traffic(), users)
    return jobs[0].block()


@settings(max_examples=50)
@given(st.lists(st.integers(min_value=0, max_value=6), min_size=1, max_size=8))
def test_chain_that_one_client_builds_is_valid_for_another(users: list[int]) -> None:
    one, other = fresh_ledger(), fresh_ledger()
    for count in users:
        block = build(one, count)
        for ledger in (one, other):
            assert ledger.new_payload(block.payload(), block.parent_beacon_block_root)["status"] == "VALID"
            assert ledger.forkchoice_updated(ForkchoiceState(block.hash))["status"] == "VALID"
    assert one.canonical == other.canonical
    assert one.head.nonces == other.head.nonces


def outcome_of(api: EngineApi, method: str, params: list[Any]) -> Any:
    """The result, or the code of the error."""
    try:
        return api.call(method, params)
    except RpcError as error:
        return error.code


def valid_params() -> list[Any]:
    ledger = fresh_ledger()
    block = build(ledger, 3)
    return [msgspec.to_builtins(block.payload()), [], block.parent_beacon_block_root, []]


PARAMS = valid_params()
HEX_FIELDS = [name for name, value in PARAMS[0].items() if isinstance(value, str)]


@settings(max_examples=300)
@given(st.sampled_from([*HEX_FIELDS, "transactions", "parentBeaconBlockRoot"]), st.data())
def test_block_with_one_digit_changed_is_never_valid(field: str, data: st.DataObject) -> None:
    params = msgspec.json.decode(msgspec.json.encode(PARAMS))
    holder, key = (params, 2) if field == "parentBeaconBlockRoot" else (params[0], field)
    if field == "transactions":
        holder, key = params[0]["transactions"], data.draw(st.integers(0, len(params[0]["transactions"]) - 1))
    holder[key] = changed_digit(holder[key], data)
    outcome = outcome_of(EngineApi(fresh_ledger(), name="test"), "engine_newPayloadV4", params)
    assert outcome == -32602 or outcome["status"] in ("INVALID", "SYNCING")


def changed_digit(text: str, data: st.DataObject) -> str:
    """Hex with one of its digits another one; of the number zero there is a bigger one left."""
    position = data.draw(st.integers(min_value=2, max_value=len(text) - 1))
    digit = data.draw(st.sampled_from([each for each in "0123456789abcdef" if each != text[position]]))
    changed = text[:position] + digit + text[position + 1 :]
    if len(text) < 20 and int(changed, 16) == int(text, 16):
        return text + "1"
    return changed


@settings(max_examples=60)
@given(st.permutations(range(4)))
def test_block_without_one_or_in_another_order_is_never_valid(order: list[int]) -> None:
    params = msgspec.json.decode(msgspec.json.encode(PARAMS))
    transactions = params[0]["transactions"]
    params[0]["transactions"] = [transactions[index] for index in order]
    expected = "VALID" if order == sorted(order) else "INVALID"
    assert EngineApi(fresh_ledger(), name="test").call("engine_newPayloadV4", params)["status"] == expected
    params[0]["transactions"] = transactions[: order[0]]
    assert EngineApi(fresh_ledger(), name="test").call("engine_newPayloadV4", params)["status"] == "INVALID"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "0x", "0x00", "latest", "0x" + "11" * 32]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["headBlockHash", "timestamp", "parentHash", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
API = EngineApi(fresh_ledger(), name="test")
METHODS = [*API.capabilities(), "eth_getBlockByNumber", "eth_getTransactionCount", "eth_sendRawTransaction"]


@settings(max_examples=300)
@given(st.sampled_from(METHODS), st.lists(JSON, max_size=4))
def test_garbage_parameters_are_answered_or_refused_and_change_nothing(method: str, params: list[Any]) -> None:
    outcome = outcome_of(API, method, params)
    assert not isinstance(outcome, int) or outcome in (-32602, -32000, -38001, -38002, -38003, -38005)
    assert API.ledger.head.number == 0
    assert len(API.ledger.blocks) == 1


class Reorganisations(RuleBasedStateMachine):
    """The canonical chain is the head's ancestors, whatever heads were set before."""

    @initialize()
    def begin(self) -> None:
        self.ledger = fresh_ledger(number=10)
        self.genesis = self.ledger.head.hash
        self.parents: dict[str, str] = {}
        self.salt = 0

    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from([self.genesis, *self.parents]))
        self.ledger.forkchoice_updated(ForkchoiceState(parent))
        self.salt += 1
        block = build(self.ledger, 0, prevRandao=f"0x{self.salt:064x}")
        status = self.ledger.new_payload(block.payload(), block.parent_beacon_block_root)
        assert status["status"] == "VALID"
        self.parents[block.hash] = parent

    @rule(data=st.data())
    def choose(self, data: st.DataObject) -> None:
        head = data.draw(st.sampled_from([self.genesis, *self.parents]))
        assert self.ledger.forkchoice_updated(ForkchoiceState(head))["status"] == "VALID"

    @invariant()
    def canonical_chain_is_the_heads_ancestors(self) -> None:
        chain = [self.ledger.head.hash]
        while chain[-1] != self.genesis:
            chain.append(self.parents[chain[-1]])
        assert self.ledger.canonical == {10 + number: each for number, each in enumerate(reversed(chain))}


Reorganisations.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestReorganisations = Reorganisations.TestCase


@pytest.mark.parametrize("fault", [None, *HARMLESS])
@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.2, 0.9, 2.5])
async def test_getpayload_of_a_builder_is_always_a_valid_block(
    autojump_clock: trio.testing.MockClock, fault: Fault | None, seconds: float
) -> None:
    async with make_builder().serving(None) as builder, make_el().serving(None) as el:
        if fault is not None:
            builder.faults.set(fault)
        for _ in range(2):
            name = await start_build(builder)
            await trio.sleep(seconds)
            envelope = await builder.call("engine_getPayloadV4", [name])
            await insert(el, envelope)
            await insert(builder, envelope)
            await trio.sleep(1)
        assert builder.head.hash == el.head.hash


@pytest.mark.parametrize("fork", [Fork.ECOTONE, Fork.ISTHMUS])
@pytest.mark.parametrize("per_flashblock", [0, 1, 5])
async def test_flashblocks_of_every_fork_add_up(
    autojump_clock: trio.testing.MockClock, fork: Fork, per_flashblock: int
) -> None:
    settings_ = BuilderSettings(transactions_per_flashblock=per_flashblock)
    ledger = Ledger(fresh_ledger(fork).head, shared_known(), fork)
    async with make_builder(settings_, ledger=ledger).serving(None) as builder:
        name = await start_build(builder)
        await trio.sleep(3)
        envelope = await builder.call(f"engine_getPayloadV{int(fork)}", [name])
    decoded = [wire.decode(str(item.message).encode(), Encoding.TEXT) for item in builder.published]
    flashblocks = tuple(each for each in decoded if isinstance(each, Flashblock))
    whole = CapturedPayload(flashblocks[0].payload_id, (), flashblocks)
    assert whole.version == fork
    assert msgspec.to_builtins(whole.payload()) == envelope["executionPayload"]
    header = header_of(whole.payload(), envelope["parentBeaconBlockRoot"])
    assert hex_data(header.hash) == builder.published[-1].block_hash


async def test_two_upstreams_agree_on_what_is_invalid(autojump_clock: trio.testing.MockClock) -> None:
    async with make_builder().serving(None) as builder:
        builder.faults.set(Fault.INVALID)
        name = await start_build(builder)
        await trio.sleep(1)
        params = new_payload_params(await builder.call("engine_getPayloadV4", [name]))
        verdicts = [await client.call("engine_newPayloadV4", params) for client in (make_el(), make_builder(), builder)]
        assert {verdict["status"] for verdict in verdicts} == {"INVALID"}
        assert len({str(verdict) for verdict in verdicts}) == 1
