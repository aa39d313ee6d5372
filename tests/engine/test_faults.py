"""The engine on real sockets while its upstreams misbehave: a block every time, in time."""

import json
import sys
import time
from functools import partial

import pytest
import trio
import trio.lowlevel

from appliance.domain.errors import DecodeError
from appliance.engine.service import EngineSettings
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_client import HttpClient
from tests.engine import messages as m
from tests.engine.fakes import (
    NEVER_S,
    SOON_S,
    Behaviour,
    FakeUpstream,
    RecordingStream,
    accepts,
    answers,
    at_the_tip,
    block,
    gated,
    hangs,
)
from tests.engine.rig import EL_ID, LOCAL, SECRET, Rig, block_of, rig

SOON = EngineSettings(SECRET, builder_deadline_s=0.15)
NEVER = EngineSettings(SECRET, builder_deadline_s=NEVER_S)


# --- builders ---


async def test_a_builder_that_hangs_costs_no_more_than_the_deadline() -> None:
    stream = RecordingStream()
    async with rig("alpha", settings=SOON, stream=stream, timeout_s=NEVER_S) as it:
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = hangs
        await it.order_build()
        await it.joined(stream, "alpha")
        started = time.monotonic()
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
        assert time.monotonic() - started >= 0.15
        assert it.metric("engine_candidates_lost_total", source="alpha", kind="late") == 1


async def test_a_payload_that_is_asked_for_before_it_is_named_is_fenced() -> None:
    gate, stream = trio.Event(), RecordingStream()
    async with rig("alpha", stream=stream) as it:
        it.el.behaviours["engine_forkchoiceUpdatedV3"] = gated(gate, accepts(EL_ID))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.order_build)
            await it.joined(stream, "alpha")

            async def ask() -> None:
                assert await it.ask(m.get_payload(EL_ID)) == block_of("alpha").answer()

            nursery.start_soon(ask)
            while it.metric("engine_requests_total", call="get_payload") < 1:
                await trio.lowlevel.checkpoint()
            gate.set()
        assert stream.names()[-3:] == ["build_confirmed", "seal", "payload_returned"]


async def test_calls_that_hang_at_the_el_do_not_make_a_build_wait() -> None:
    """More of them than all connections to the EL together."""
    async with rig(settings=SOON, timeout_s=NEVER_S) as it:
        it.el.behaviours["debug_traceBlock"] = hangs
        trace = m.request("debug_traceBlock", [])
        async with HttpClient(it.client.origin, max_connections=100) as other, trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(partial(it.post, trace, client=other))
            await it.el.wait_for("debug_traceBlock", 32)
            with trio.fail_after(SOON_S):
                await it.order_build()
                assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
            assert len(it.el.bodies("debug_traceBlock")) == 32
            nursery.cancel_scope.cancel()


async def test_with_no_block_anywhere_a_hung_builder_costs_no_more_than_the_deadline() -> None:
    async with rig("alpha", settings=SOON, timeout_s=NEVER_S) as it:
        for method in it.builders["alpha"].behaviours:
            it.builders["alpha"].behaviours[method] = hangs
        await it.ask(m.new_payload(m.Block("parent")))
        await it.order_build()
        it.el.behaviours["engine_getPayloadV4"] = answers(m.error())
        started = time.monotonic()
        assert await it.ask(m.get_payload(EL_ID)) == m.error()
        assert time.monotonic() - started >= 0.15


async def test_the_els_answer_to_an_order_is_not_held_by_a_builder_not_even_until_the_deadline() -> None:
    async with rig("alpha", settings=NEVER, timeout_s=NEVER_S) as it:
        it.builders["alpha"].behaviours["engine_forkchoiceUpdatedV3"] = hangs
        assert json.loads(await it.ask(m.build()))["result"]["payloadId"] == EL_ID


async def test_a_builder_that_never_answers_the_order_costs_no_more_than_the_deadline() -> None:
    async with rig("alpha", settings=SOON, timeout_s=NEVER_S) as it:
        it.builders["alpha"].behaviours["engine_forkchoiceUpdatedV3"] = hangs
        assert json.loads(await it.ask(m.build()))["result"]["payloadId"] == EL_ID
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()


async def test_a_body_nested_to_the_recursion_limit_does_not_end_the_engine() -> None:
    """Its stack is not the same where it is read first, where newPayload is made of it, and in a builder's lane."""
    stream = RecordingStream()
    limit = sys.getrecursionlimit()
    async with rig("alpha", stream=stream) as it:
        for number, depth in enumerate(range(limit - 80, limit - 20)):
            stream.calls.clear()
            theirs = m.Block(f"alpha's {number}", timestamp=m.TIMESTAMP + number)
            deep = theirs.answer(99)[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
            it.builders["alpha"].behaviours["engine_getPayloadV4"] = answers(deep)
            await it.ask(m.build(timestamp=m.TIMESTAMP + number))
            await it.joined(stream, "alpha")
            answer = json.loads(await it.ask(m.get_payload(EL_ID)))
            assert answer["result"]["executionPayload"]["blockHash"] in {theirs.hash, LOCAL.hash}


async def test_a_block_of_which_no_new_payload_can_be_made_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise DecodeError("getPayload answer: too deep")

    monkeypatch.setattr("appliance.engine.parcels.new_payload_request", refuse)
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
        assert it.metric("engine_candidates_lost_total", source="alpha", kind="unjudged") == 1


async def test_a_builder_whose_payload_id_comes_late_is_still_used() -> None:
    gate = trio.Event()
    async with rig("alpha") as it:
        alpha = it.builders["alpha"]
        alpha.behaviours["engine_forkchoiceUpdatedV3"] = gated(gate, accepts("0xa1"))
        await it.order_build()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await it.ask(m.get_payload(EL_ID)) == block_of("alpha").answer()

            nursery.start_soon(ask)
            await it.el.wait_for("engine_getPayloadV4")
            gate.set()


@pytest.mark.parametrize(
    "behaviour",
    [
        answers(b"Internal Server Error", 500, "text/plain"),
        answers(b"", 200),
        answers(b"<html>", 200),
        answers(b"[]", 200),
        answers(m.error(-38001)),
        answers(m.result({"executionPayload": {"blockHash": "0x"}})),
        answers(m.Block("stale", parent="0x" + "00" * 32).answer()),
    ],
    ids=["500", "empty", "html", "array", "error", "half", "stale"],
)
async def test_a_builder_that_answers_nonsense_is_passed_over(behaviour: Behaviour) -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", stream=stream) as it:
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = behaviour
        await it.order_build()
        await it.joined(stream, "alpha", "beta")
        assert await it.ask(m.get_payload(EL_ID)) == block_of("beta").answer()


@pytest.mark.parametrize("status", ["INVALID", "SYNCING", "ACCEPTED"])
async def test_builder_returns_incorrect_block(status: str) -> None:
    """rollup-boost's test of this name; and SYNCING and ACCEPTED, which it once took for valid."""
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        it.el.behaviours["engine_newPayloadV4"] = answers(m.verdict(status))
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
        kind = "invalid" if status == "INVALID" else "unjudged"
        assert it.metric("engine_candidates_lost_total", source="alpha", kind=kind) == 1


async def test_builder_down_gives_the_els_block_at_once_and_back_it_is_used_again() -> None:
    stream = RecordingStream()
    async with rig("alpha", settings=NEVER, stream=stream) as it:
        alpha = it.builders["alpha"]
        await alpha.stop()
        await it.order_build()
        # A refused connection is known at once, not at the deadline, which does not come.
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()

        await it.nursery.start(alpha.run)
        await it.ask(m.build(timestamp=m.TIMESTAMP + 2))
        await it.joined(stream, "alpha")
        again = m.Block("again", timestamp=m.TIMESTAMP + 2)
        alpha.behaviours["engine_getPayloadV4"] = block(again)
        assert await it.ask(m.get_payload(EL_ID)) == again.answer()


async def test_n_minus_1_builders_down_external_blocks_go_on() -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", "gamma", stream=stream) as it:
        await it.builders["alpha"].stop()
        await it.builders["beta"].stop()
        await it.order_build()
        await it.joined(stream, "gamma")
        assert await it.ask(m.get_payload(EL_ID)) == block_of("gamma").answer()


async def test_a_miner_setting_reaches_a_builder_that_was_away() -> None:
    async with rig("alpha") as it:
        alpha = it.builders["alpha"]
        it.el.behaviours["miner_setMaxDASize"] = answers(m.result(True))
        alpha.behaviours["miner_setMaxDASize"] = answers(m.result(True))
        await alpha.stop()
        for size in ("0x1", "0x2", "0x3"):
            await it.ask(m.request("miner_setMaxDASize", [size, size]))
        await it.nursery.start(alpha.run)
        bodies = await alpha.wait_for("miner_setMaxDASize")
        assert json.loads(bodies[-1])["params"] == ["0x3", "0x3"]


async def test_a_hanging_builder_holds_up_neither_op_node_nor_the_other_builder() -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", stream=stream, timeout_s=NEVER_S) as it:
        it.builders["alpha"].behaviours["engine_newPayloadV4"] = hangs
        for number in range(40):
            await it.ask(m.new_payload(m.Block(f"b{number}")))
        await it.order_build()
        await it.joined(stream, "beta")
        assert len(await it.builders["alpha"].wait_for("engine_newPayloadV4")) == 1
        assert it.metric("engine_copies_dropped_total", builder="alpha") > 0


# --- the EL ---


@pytest.mark.parametrize(
    "body", [m.forkchoice(identifier="x"), m.build(identifier="x"), m.request("eth_chainId", [], "x")]
)
async def test_el_down_is_a_json_rpc_error_with_the_requests_id(body: bytes) -> None:
    async with rig("alpha") as it:
        await it.el.stop()
        answer = json.loads(await it.ask(body))
        assert answer["id"] == "x"
        assert answer["error"]["code"] == -32603
        assert it.el.url in answer["error"]["message"]
        assert answer["error"]["message"].startswith("l2")


async def test_an_el_that_hangs_is_an_error_after_its_timeout() -> None:
    async with rig(timeout_s=0.2) as it:
        it.el.behaviours["engine_forkchoiceUpdatedV3"] = hangs
        answer = json.loads(await it.ask(m.build()))
        assert "within 200 ms" in answer["error"]["message"]


async def test_an_el_that_lost_the_payload_is_saved_by_the_builder() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        it.el.behaviours["engine_getPayloadV4"] = answers(m.error())
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID)) == block_of("alpha").answer()


async def test_el_and_builder_without_a_block_give_the_els_error() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        for fake in (it.el, it.builders["alpha"]):
            fake.behaviours["engine_getPayloadV4"] = answers(m.error(identifier=5))
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID, identifier=5)) == m.error(identifier=5)


async def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_an_error() -> None:
    async def half(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await stream.aclose()

    async with rig() as it:
        await it.el.stop()
        port = int(it.el.address.rpartition(":")[2])
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        it.nursery.start_soon(trio.serve_listeners, half, listeners)
        answer = json.loads(await it.ask(m.forkchoice()))
        assert answer["error"]["code"] == -32603
        assert it.el.url in answer["error"]["message"]


# --- asked twice ---


async def test_asked_by_many_at_once_all_get_the_same_block() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha")
        seen: dict[int, object] = {}

        async def ask(identifier: int) -> None:
            seen[identifier] = json.loads(await it.ask(m.get_payload(EL_ID, identifier=identifier)))

        async with trio.open_nursery() as nursery:
            for identifier in range(20):
                nursery.start_soon(ask, identifier)
        assert seen == {n: json.loads(block_of("alpha").answer(identifier=n)) for n in range(20)}
        assert len(it.builders["alpha"].bodies("engine_getPayloadV4")) == 1
        assert len(it.el.bodies("engine_getPayloadV4")) == 1


async def test_the_same_order_twice_builds_once() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        for identifier in (1, 2):
            await it.ask(m.build(identifier=identifier))
            await it.joined(stream, "alpha")
        assert len(it.builders["alpha"].bodies("engine_forkchoiceUpdatedV3")) == 1
        assert stream.names().count("build_started") == 1


# --- health ---


async def test_health_follows_what_upstreams_do() -> None:
    async with rig("alpha", settings=EngineSettings(SECRET, builder_deadline_s=0.1)) as it:
        await until(it, 200)
        await it.builders["alpha"].stop()
        await it.order_build()
        await it.ask(m.get_payload(EL_ID))
        await until(it, 206)
        body = (await it.get("/healthz")).body.decode().splitlines()
        assert body[0] == "Partial Content"
        assert body[1].startswith("l2: well, latest block is ")
        assert body[2].startswith("alpha: not well, alpha: ")
        await it.el.stop()
        await it.ask(m.build(timestamp=m.TIMESTAMP + 2))
        await it.ask(m.get_payload(EL_ID))
        await until(it, 503)
        assert (await it.get("/healthz")).body.startswith(b"Service Unavailable\nl2: not well, l2: ")
        assert [fact.healthy for fact in it.engine.facts()] == [False, False]


async def test_an_el_whose_chain_stands_still_is_unavailable() -> None:
    async with rig("alpha", settings=EngineSettings(SECRET, health_check_interval_s=0.02)) as it:
        await until(it, 200)
        it.el.behaviours["eth_getBlockByNumber"] = answers(m.latest_block(int(time.time()) - 60))
        await until(it, 503)
        it.el.behaviours["eth_getBlockByNumber"] = at_the_tip
        await until(it, 200)


async def until(it: Rig, status: int) -> None:
    with trio.fail_after(SOON_S):
        while (await it.get("/healthz")).status != status:
            await trio.lowlevel.checkpoint()


async def test_a_failed_call_alone_moves_no_leadership() -> None:
    """The builder fails one getPayload, but its chain is well: still 200 after the probe that follows."""
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        await until(it, 200)
        alpha = it.builders["alpha"]
        probes = len(alpha.bodies("eth_getBlockByNumber"))
        alpha.behaviours["engine_getPayloadV4"] = answers(b"oops", 500)
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
        await alpha.wait_for("eth_getBlockByNumber", probes + 1)
        assert (await it.get("/healthz")).status == 200


async def test_a_request_without_an_answer_does_not_stop_the_others() -> None:
    async def crash(upstream: FakeUpstream, request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    async with rig() as it:
        it.el.behaviours["eth_crash"] = crash
        assert (await it.post(m.request("eth_crash", []))).status == 500
        assert json.loads(await it.ask(m.forkchoice()))["result"]
