"""What the engine's two listeners have in common: op-node's and that of other appliances."""

from collections.abc import Iterable

import trio

from appliance.domain.health import HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.executor import Executor
from appliance.engine.health_watch import HealthWatch
from appliance.engine.ports import FlashblockStream
from appliance.net.http_server import HttpServer
from appliance.telemetry.logging import get_logger

log = get_logger("engine")


async def serve(
    server: HttpServer,
    executor: Executor,
    health: HealthWatch,
    *,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run calls, probes and the server until that has drained; ``started`` gets the server."""
    async with trio.open_nursery() as nursery:
        await nursery.start(executor.run)
        nursery.start_soon(health.run)
        await server.run(task_status=task_status)
        nursery.cancel_scope.cancel()


def stream_facts(stream: FlashblockStream, mode: ExecutionMode) -> list[HealthFact]:
    """The fact about the flashblock stream, where one is shown; a bug in it costs this fact.

    It is told and not folded in: see appliance/flashblocks/stream_health.py.
    """
    if mode is not ExecutionMode.ENABLED:
        return []
    try:
        fact = stream.health()
    except Exception:
        log.exception("flashblock stream failed", call="health")
        return []
    return [] if fact is None else [fact]


def facts_for_status(facts: Iterable[HealthFact]) -> list[dict[str, object]]:
    """Health facts as JSON-able values."""
    return [{"name": fact.name, "healthy": fact.healthy, "reason": fact.reason} for fact in facts]
