"""The engine on real sockets: what op-node sees when all goes well."""

import json
import time

import pytest
import structlog
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import ConfigError
from appliance.domain.health import STREAM, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.metrics import EngineMetrics
from appliance.engine.service import Engine, EngineSettings
from appliance.engine.upstream import Upstream
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, BrokenStream, RecordingStream, answers, gated, hangs
from tests.engine.rig import EL_ID, LOCAL, SECRET, block_of, rig


async def test_a_block_of_a_builder_from_order_to_head() -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", stream=stream) as it:
        assert json.loads(await it.ask(m.build()))["result"]["payloadId"] == EL_ID
        await it.joined(stream, "alpha", "beta")
        answer = await it.ask(m.get_payload(EL_ID, identifier="gp"))
        assert answer == block_of("alpha").answer("gp")
        await it.ask(m.new_payload(block_of("alpha")))
        await it.ask(m.forkchoice(block_of("alpha").hash))
    assert stream.calls[0] == ("build_started", 1, ("alpha", "beta"))
    assert stream.names()[-3:] == ["seal", "payload_returned", "head_changed"]
    assert stream.calls[-2:] == [
        ("payload_returned", 1, block_of("alpha").hash),
        ("head_changed", block_of("alpha").hash, 7),
    ]


async def test_the_returning_block_line_is_what_operators_grep_for() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        with structlog.testing.capture_logs() as lines:
            await it.order_build()
            await it.joined(stream, "alpha")
            await it.ask(m.get_payload(EL_ID))
            it.engine.statistics()  # the line is written after the answer, or when somebody looks
        (line,) = [line for line in lines if line["event"] == "returning block"]
        assert line["hash"] == block_of("alpha").hash
        assert line["number"] == 7
        assert line["context"] == "builder"
        assert line["payload_id"] == EL_ID
        assert line["builder"] == "alpha"
        assert set(line["candidates"]) == {"alpha", "l2"}
        assert it.metric("rpc_blocks_created", source="builder") == 1
        assert it.metric("engine_get_payload_seconds_count") == 1


async def test_without_builders_everything_is_the_els_byte_for_byte() -> None:
    async with rig() as it:
        await it.order_build()
        assert await it.ask(m.get_payload(EL_ID)) == LOCAL.answer()
        assert it.el.bodies("engine_getPayloadV4") == [m.get_payload(EL_ID)]
        assert it.el.bodies("engine_forkchoiceUpdatedV3") == [m.build()]
        assert it.metric("rpc_blocks_created", source="l2") == 1


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (200, b'{"jsonrpc":"2.0","id" : 5,"result":"0x1"}', "application/json"),
        (404, b"\x00\xff not json", "application/octet-stream"),
        (503, b"", "text/plain"),
        (200, b'{"jsonrpc":"2.0","id":5,"error":{"code":-32601,"message":"x"}}\n', "application/json; charset=utf-8"),
    ],
)
async def test_unknown_methods_pass_byte_for_byte(status: int, body: bytes, content_type: str) -> None:
    request = b' {"method" : "debug_newThing", "params":[ 1e400 ], "id":5, "jsonrpc":"2.0", "more":{}} \n'
    async with rig("alpha") as it:
        it.el.behaviours["debug_newThing"] = answers(body, status, content_type)
        response = await it.post(request)
        assert (response.status, response.body) == (status, body)
        assert response.headers["content-type"] == content_type
        assert it.el.bodies("debug_newThing") == [request]
        assert it.builders["alpha"].bodies("debug_newThing") == []


async def test_new_payload_and_forkchoice_reach_builders_in_order() -> None:
    async with rig("alpha") as it:
        await it.ask(m.new_payload(LOCAL))
        await it.ask(m.forkchoice(LOCAL.hash))
        await it.ask(m.build(LOCAL.hash))
        alpha = it.builders["alpha"]
        await alpha.wait_for("engine_newPayloadV4")
        await alpha.wait_for("engine_forkchoiceUpdatedV3")
        with trio.fail_after(SOON_S):
            while m.build(LOCAL.hash) not in alpha.requests:
                await trio.lowlevel.checkpoint()
        order = [body for body in alpha.requests if b"eth_getBlockByNumber" not in body]
        assert order[0] == m.new_payload(LOCAL)
        assert order[-1] == m.build(LOCAL.hash)


@pytest.mark.parametrize(
    "method", ["eth_sendRawTransaction", "miner_setMaxDASize", "eth_sendRawTransactionConditional"]
)
async def test_mirrored_methods_reach_every_builder_and_the_el_answers(method: str) -> None:
    body = m.request(method, ["0x01"], "tx")
    async with rig("alpha", "beta") as it:
        it.el.behaviours[method] = answers(m.result("0xhash", "tx"))
        assert await it.ask(body) == m.result("0xhash", "tx")
        for builder in it.builders.values():
            assert await builder.wait_for(method) == [body]


async def test_the_chosen_block_is_announced_to_all_builders() -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha", "beta")
        await it.ask(m.get_payload(EL_ID))
        for builder in it.builders.values():
            (body,) = await builder.wait_for("engine_newPayloadV4")
            assert json.loads(body)["params"] == [block_of("alpha").payload(), [], m.ROOT, []]


async def test_three_megabytes_come_through_byte_for_byte() -> None:
    stream = RecordingStream()
    big = m.Block("big", transactions=tuple("0x02" + f"{n:04x}" * 750 for n in range(1000)))
    async with rig("alpha", stream=stream) as it:
        body = big.answer("gp").replace(b'"builtBy"', b' "unknown" : 1e999, "builtBy"')
        assert len(body) > 3_000_000
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = answers(body)
        await it.order_build()
        await it.joined(stream, "alpha")
        assert await it.ask(m.get_payload(EL_ID, identifier="gp")) == body
        (judged,) = it.el.bodies("engine_newPayloadV4")
        payload = body[body.index(b'{"parentHash"') : body.index(b', "blockValue"')]
        assert judged.startswith(b'{"jsonrpc":"2.0","id":1,"method":"engine_newPayloadV4","params":[' + payload)


async def test_the_assembled_block_is_returned_at_once() -> None:
    stream = RecordingStream(assembled=block_of("alpha").assembled(validated=True))
    async with rig("alpha", stream=stream) as it:
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = hangs
        it.el.behaviours["engine_getPayloadV4"] = hangs
        await it.order_build()
        await it.joined(stream, "alpha")
        answer = json.loads(await it.ask(m.get_payload(EL_ID, identifier="gp")))
        assert answer["result"]["executionPayload"] == block_of("alpha").payload()
        assert it.el.bodies("engine_newPayloadV4") == []
        await it.builders["alpha"].wait_for("engine_getPayloadV4")


async def test_tokens_are_asked_for_and_sent() -> None:
    now = time.time()
    async with rig() as it:
        for token in ("Bearer x", f"Bearer {jwt.sign(b'other' * 8, now)}", f"Bearer {jwt.sign(SECRET, now - 120)}"):
            response = await it.post(m.forkchoice(), token)
            assert response.status == 401
            assert response.body
        assert (await it.client.request("POST", "/", (), m.forkchoice(), timeout_s=SOON_S)).status == 401
        assert it.el.bodies("engine_forkchoiceUpdatedV3") == []
        assert it.metric("engine_unauthorized_total") == 4


async def test_a_secret_that_the_el_refuses_is_said_in_words() -> None:
    async with rig() as it:
        it.el.secret = b"\x99" * 32
        answer = json.loads(await it.ask(m.forkchoice(identifier=9)))
        assert answer["id"] == 9
        assert f"l2 {it.el.url}: HTTP 500" in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/readyz", "/livez"])
async def test_ready_and_live_need_no_token(path: str) -> None:
    async with rig() as it:
        response = await it.get(path)
        assert (response.status, response.body) == (200, b"OK")


async def test_statistics_are_json() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha")
        await it.ask(m.get_payload(EL_ID))
        report = json.loads(json.dumps(it.engine.statistics()))
        assert report["policy"] == "builder"
        assert report["blocks"]["returned"] == 1
        assert report["blocks"]["last"]["hash"] == block_of("alpha").hash
        assert [builder["name"] for builder in report["builders"]] == ["alpha"]
        assert report["server"]["requests"] == 2


async def test_a_bug_in_the_flashblock_plane_costs_no_block() -> None:
    async with rig("alpha", stream=BrokenStream()) as it:
        with structlog.testing.capture_logs() as lines:
            await it.order_build()
            await it.builders["alpha"].wait_for("engine_forkchoiceUpdatedV3")
            answer = await it.ask(m.get_payload(EL_ID))
        assert answer == block_of("alpha").answer()
        assert {line["call"] for line in lines if line["event"] == "flashblock stream failed"} == {
            "BuildStarted",
            "seal",
        }


async def test_stopping_drains_what_is_being_answered() -> None:
    async with rig(drain_timeout_s=SOON_S) as it:
        gate = trio.Event()
        it.el.behaviours["eth_slow"] = gated(gate, answers(m.result("done")))
        async with trio.open_nursery() as nursery:
            answers_seen: list[bytes] = []

            async def ask() -> None:
                answers_seen.append(await it.ask(m.request("eth_slow", [])))

            nursery.start_soon(ask)
            await it.el.wait_for("eth_slow")
            it.stopping.set()
            gate.set()
        assert answers_seen == [m.result("done")]


async def test_it_is_not_busy_with_a_request_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> HttpResponse:
        raise RuntimeError("a bug")

    async with rig() as it:
        monkeypatch.setattr(it.engine._frontend, "handle", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            await it.engine.handle(HttpRequest("POST", "/", Headers()))
        assert not it.engine.is_busy()


async def test_it_is_busy_as_long_as_a_request_is_in_hand() -> None:
    async with rig() as it:
        gate = trio.Event()
        it.el.behaviours["eth_slow"] = gated(gate, answers(m.result("done")))
        assert [it.engine.is_busy()] == [False]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(it.ask, m.request("eth_slow", []))
            await it.el.wait_for("eth_slow")
            assert [it.engine.is_busy()] == [True]
            gate.set()
        assert [it.engine.is_busy()] == [False]


@pytest.mark.parametrize("names", [("alpha", "alpha"), ("l2",), ("assembled",)])
async def test_names_must_be_told_apart(names: tuple[str, ...]) -> None:
    metrics = EngineMetrics.create(CollectorRegistry())
    el, *builders = (Upstream(name, "http://127.0.0.1:1", SECRET, metrics) for name in ("el", *names))
    with pytest.raises(ConfigError, match=f"the name '{names[-1]}' is reserved or given twice"):
        Engine(EngineSettings(SECRET), el, tuple(builders), RecordingStream(), metrics)


async def test_an_unknown_policy_is_a_config_error() -> None:
    metrics = EngineMetrics.create(CollectorRegistry())
    el = Upstream("l2", "http://127.0.0.1:1", SECRET, metrics)
    with pytest.raises(ConfigError, match=r"engine\.policy: 'best' is none of builder, gas_used"):
        Engine(EngineSettings(SECRET, policy="best"), el, (), RecordingStream(), metrics)


async def test_a_silent_flashblock_stream_is_told_and_does_not_change_the_status() -> None:
    """op-conductor takes 206 for unhealthy and moves the leadership: for that, blocks would have to be missing."""
    stream = RecordingStream(fact=HealthFact(STREAM, healthy=False, reason="no flashblock came"))
    async with rig("alpha", stream=stream) as host:
        await host.healthy()
        response = await host.get("/healthz")
        assert response.status == 200
        assert b"\nstream: not well, no flashblock came" in response.body
        assert host.engine.facts()[-1] == stream.fact
        told = json.dumps(host.engine.statistics()["facts"])
        assert '{"name": "stream", "healthy": false, "reason": "no flashblock came"}' in told


@pytest.mark.parametrize("mode", [ExecutionMode.DRY_RUN, ExecutionMode.DISABLED])
async def test_where_no_flashblocks_are_shown_their_stream_is_no_fact(mode: ExecutionMode) -> None:
    stream = RecordingStream(fact=HealthFact(STREAM, healthy=False, reason="no flashblock came"))
    async with rig("alpha", stream=stream) as host:
        host.engine._set_mode(mode)
        assert STREAM not in [fact.name for fact in host.engine.facts()]


async def test_a_bug_in_the_fact_about_the_stream_costs_this_fact_alone() -> None:
    async with rig("alpha", stream=BrokenStream()) as host:
        await host.healthy()
        assert (await host.get("/healthz")).status == 200
