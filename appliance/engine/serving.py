"""What the engine's two listeners have in common: op-node's and that of other appliances."""

from collections.abc import Iterable

import trio

from appliance.domain.health import HealthFact
from appliance.engine.executor import Executor
from appliance.engine.health_watch import HealthWatch
from appliance.net.http_server import HttpServer


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


def facts_for_status(facts: Iterable[HealthFact]) -> list[dict[str, object]]:
    """Health facts as JSON-able values."""
    return [{"name": fact.name, "healthy": fact.healthy, "reason": fact.reason} for fact in facts]
