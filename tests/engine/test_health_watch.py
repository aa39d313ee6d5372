"""The shell around the health machine, on real sockets."""

import json

import structlog
import trio

from appliance.domain.modes import ExecutionMode
from appliance.engine.service import EngineSettings
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, answers, at_the_tip
from tests.engine.rig import EL_ID, SECRET, rig
from tests.support.eventually import eventually


async def test_a_builder_that_falls_ill_while_builders_are_switched_off_ends_nothing() -> None:
    """Its reason was looked up among those that count: the engine crashed, as often as systemd started it again."""
    settings = EngineSettings(SECRET, health_check_interval_s=0.02)
    async with rig("alpha", settings=settings) as host:
        await host.healthy()
        host.engine._set_mode(ExecutionMode.DISABLED)
        with structlog.testing.capture_logs() as lines, trio.fail_after(2 * SOON_S):
            host.builders["alpha"].behaviours["eth_getBlockByNumber"] = answers(m.error())
            await eventually(lambda: "builder is unhealthy" in [line["event"] for line in lines])
            assert host.metric("engine_upstream_healthy", upstream="alpha") == 0, "for who wants to switch them on"
            host.builders["alpha"].behaviours["eth_getBlockByNumber"] = at_the_tip
            await eventually(lambda: "builder is healthy again" in [line["event"] for line in lines])
        assert (await host.get("/healthz")).status == 200
        assert json.loads(await host.ask(m.build()))["result"]["payloadId"] == EL_ID


async def test_a_reason_does_not_say_again_whose_it_is() -> None:
    """The line was "alpha: not well, alpha http://...: ..."."""
    settings = EngineSettings(SECRET, health_check_interval_s=0.02)
    async with rig("alpha", settings=settings) as host:
        await host.healthy()
        host.builders["alpha"].behaviours["eth_getBlockByNumber"] = answers(m.error(), status=500)
        with trio.fail_after(10):
            await eventually(lambda: not all(fact.healthy for fact in host.engine.facts()))
        (reason,) = [fact.reason for fact in host.engine.facts() if fact.name == "alpha"]
        assert "HTTP 500" in reason
        assert "alpha" not in reason
