"""The builder listener on real sockets: its own secret, its own health, a restart, builders that hang."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from appliance.engine.builder_listen import BuilderListen
from appliance.engine.metrics import EngineMetrics
from appliance.engine.service import EngineSettings
from appliance.engine.upstream import Upstream
from appliance.net.http import HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import open_listener
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import NEVER_S, SOON_S, FakeUpstream, RecordingStream, hangs
from tests.engine.rig import PATIENT_S, SECRET, block_of, fake_builder
from tests.support.ports import held_address


@dataclass
class Pool:
    """A listener over fake builders; ``posts`` as the appliance of a sequencer does."""

    listen: BuilderListen
    builders: dict[str, FakeUpstream]
    client: HttpClient
    stream: RecordingStream
    registry: CollectorRegistry
    stopping: trio.Event

    async def post(self, body: bytes, secret: bytes = SECRET) -> HttpResponse:
        token = f"Bearer {jwt.sign(secret, time.time())}"
        return await self.client.request("POST", "/", {"authorization": token}, body, timeout_s=SOON_S)

    async def result(self, body: bytes) -> object:
        answer = json.loads((await self.post(body)).body)
        assert "result" in answer, answer
        return answer["result"]

    async def until(self, status: int) -> list[str]:
        with trio.fail_after(SOON_S):
            while (found := await self.client.request("GET", "/healthz", timeout_s=SOON_S)).status != status:
                await trio.lowlevel.checkpoint()
        return found.body.decode().splitlines()


@asynccontextmanager
async def pool(*names: str) -> AsyncIterator[Pool]:
    """A listener; everything ends with the block."""
    builders = {name: fake_builder(name) for name in names}
    registry, stopping, stream = CollectorRegistry(), trio.Event(), RecordingStream()
    metrics = EngineMetrics.create(registry, "builder_listen")
    settings = EngineSettings(SECRET, builder_deadline_s=PATIENT_S, health_check_interval_s=0.05, drain_timeout_s=1.0)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for fake in builders.values():
            fake.address = stack.enter_context(held_address())
            await nursery.start(fake.run)
        upstreams = [
            await stack.enter_async_context(Upstream(fake.name, fake.url, fake.secret, metrics, timeout_s=NEVER_S))
            for fake in builders.values()
        ]
        listen = BuilderListen(settings, tuple(upstreams), stream, metrics)
        listener = open_listener("127.0.0.1:0")
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            await listen.run(listener, stopping=stopping, task_status=task_status)

        async with trio.open_nursery() as running:
            await running.start(run)
            async with HttpClient(f"http://{address}") as client:
                yield Pool(listen, builders, client, stream, registry, stopping)
            stopping.set()
        nursery.cancel_scope.cancel()


def payload_id(result: object) -> object:
    assert isinstance(result, dict)
    return result["payloadId"]


async def test_it_asks_for_its_own_secret() -> None:
    async with pool("alpha") as it:
        assert (await it.post(m.forkchoice(), secret=b"\x77" * 32)).status == 401
        assert (await it.post(m.forkchoice())).status == 200
        server = it.listen.statistics()["server"]
        assert isinstance(server, dict)
        assert (server["answered_at_head"], server["requests"]) == (1, 1), "a body without a good token is not read"


async def test_one_order_twice_is_one_build_and_a_block_for_both() -> None:
    async with pool("alpha", "beta") as it:
        ids = [payload_id(await it.result(m.build(identifier=number))) for number in (1, 2)]
        assert ids[0] == ids[1] is not None
        bodies = [(await it.post(m.get_payload(str(ids[0]), number))).body for number in (1, 2)]
        hashes = {json.loads(body)["result"]["executionPayload"]["blockHash"] for body in bodies}
        assert hashes == {block_of("alpha").hash}
        assert all(len(fake.bodies("engine_forkchoiceUpdatedV3")) == 1 for fake in it.builders.values())
        assert all(len(fake.bodies("engine_newPayloadV4")) == 0 for fake in it.builders.values()), (
            "nothing is validated"
        )


async def test_a_rival_order_reaches_no_builder_and_is_counted() -> None:
    async with pool("alpha") as it:
        await it.result(m.build())
        assert payload_id(await it.result(m.build(timestamp=m.TIMESTAMP + 2))) is None
        assert len(it.builders["alpha"].bodies("engine_forkchoiceUpdatedV3")) == 1
        it.listen.statistics()  # what is counted after the answer is counted when somebody looks
        assert it.registry.get_sample_value("builder_listen_orders_turned_away_total") == 1


async def test_its_health_is_its_builders() -> None:
    async with pool("alpha", "beta") as it:
        assert (await it.until(200))[1].startswith("alpha: well, latest block is")
        await it.builders["alpha"].stop()
        lines = await it.until(206)
        assert lines[1].startswith("alpha: not well, alpha: no connection to")
        assert lines[2].startswith("beta: well")
        await it.builders["beta"].stop()
        await it.until(503)
        assert [fact.healthy for fact in it.listen.facts()] == [False, False]


async def test_a_builder_that_hangs_delays_no_answer(mock_clock: MockClock) -> None:
    """The clock stands still: only the choice waits, and that until the deadline, not as long as the builder hangs."""
    async with pool("alpha", "beta") as it:
        alpha = it.builders["alpha"]
        alpha.behaviours.update(dict.fromkeys(alpha.behaviours, hangs))
        assert payload_id(await it.result(m.build())) is not None
        assert await it.result(m.new_payload(m.Block("b"))) is not None
        assert await it.result(m.forkchoice()) is not None
        hanging = it.listen.statistics()["open_calls"]
        found: list[object] = []

        async def ask() -> None:
            found.append(await it.result(m.get_payload("0x62657461")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await it.builders["beta"].wait_for("engine_getPayloadV4")
            while it.listen.statistics()["open_calls"] != hanging:  # its block is on its way
                await trio.lowlevel.checkpoint()
            assert found == []
            mock_clock.jump(PATIENT_S)
        assert found


async def test_settings_and_transactions_reach_all_builders() -> None:
    async with pool("alpha", "beta") as it:
        for method in ("miner_setExtra", "eth_sendRawTransaction"):
            await it.post(m.request(method, ["0x01"]))
            for fake in it.builders.values():
                await fake.wait_for(method)


async def test_it_can_be_run_again_and_its_builds_have_new_numbers() -> None:
    async with pool("alpha") as it:
        await it.result(m.build())
        it.listen._assemble()
        stopping, listener = trio.Event(), open_listener("127.0.0.1:0")
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def run(*, task_status: trio.TaskStatus[object]) -> None:
            await it.listen.run(listener, stopping=stopping, task_status=task_status)

        async with trio.open_nursery() as nursery, HttpClient(address) as client:
            await nursery.start(run)
            token = f"Bearer {jwt.sign(SECRET, time.time())}"
            await client.request("POST", "/", {"authorization": token}, m.build(), timeout_s=SOON_S)
            stopping.set()
        assert [call[1] for call in it.stream.calls if call[0] == "build_started"] == [1, 2]
        assert it.listen.statistics()["policy"] == "builder"
