"""The builder load balancer: Engine API for other appliances over n builders, as if they were one."""

import itertools
import socket
import time
from collections.abc import Callable

import trio

from appliance.domain.health import Health, HealthFact
from appliance.engine.arbiter import Arbiter
from appliance.engine.executor import Executor
from appliance.engine.frontend import Frontend
from appliance.engine.health_watch import HealthWatch
from appliance.engine.metrics import EngineMetrics
from appliance.engine.policies import policy_named
from appliance.engine.ports import FlashblockStream
from appliance.engine.service import EngineSettings, check_names
from appliance.engine.serving import facts_for_status, serve, stream_facts
from appliance.engine.upstream import Upstream
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpServer


class BuilderListen:
    """What other appliances know as their builder.

    ``settings.jwt_secret`` is what they sign with. ``builders`` are this listener's own connections, in the order of
    preference; they are opened and closed by the caller, around `run`. It may be run again after a crash: it then
    remembers no build. Raises ConfigError for an unknown policy, and for builders whose names cannot be told apart.
    """

    def __init__(
        self,
        settings: EngineSettings,
        builders: tuple[Upstream, ...],
        stream: FlashblockStream,
        metrics: EngineMetrics,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        check_names(tuple(builder.name for builder in builders))
        self._settings = settings
        self._policy = policy_named(settings.policy, settings.min_gas_share)
        self._builders = builders
        self._stream = stream
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._build_ids = itertools.count(1)  # goes on after a restart: the stream knows the numbers before
        self._server: HttpServer | None = None
        self._assemble()
        metrics.health.set_function(lambda: float(self.health()))

    def _assemble(self) -> None:
        names = tuple(builder.name for builder in self._builders)
        settings = self._settings
        self._health = HealthWatch(
            None,
            self._builders,
            self._metrics,
            interval_s=settings.health_check_interval_s,
            max_unsafe_interval_s=settings.max_unsafe_interval_s,
            wall_clock=self._wall_clock,
        )
        machine = Arbiter(names, self._policy, settings.builder_deadline_s, self._build_ids)
        self._executor = Executor(machine, None, self._builders, self._stream, self._health, self._metrics)
        self._frontend = Frontend(
            settings.jwt_secret,
            self._executor.ask,
            self.health,
            self._metrics,
            facts=self.facts,
            wall_clock=self._wall_clock,
        )

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on ``listener`` until ``stopping`` is set, then drain; ``started`` gets the server."""
        self._assemble()
        self._server = HttpServer(
            self.handle,
            listener,
            limits=self._settings.limits,
            stopping=stopping,
            drain_timeout_s=self._settings.drain_timeout_s,
            name="builder_listen",
            on_head=self._frontend.on_head,
        )
        await serve(self._server, self._executor, self._health, task_status=task_status)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request of another appliance."""
        return await self._frontend.handle(request)

    def health(self) -> Health:
        """What its own /healthz answers: see health.py, "without an EL"."""
        return self._health.status

    def facts(self) -> list[HealthFact]:
        """Each builder with its reason, then the flashblock stream where it is this listener's."""
        return self._health.facts() + stream_facts(self._stream, self._executor.mode)

    def statistics(self) -> dict[str, object]:
        """For `/api/v1/status`."""
        return {
            "policy": self._settings.policy,
            "health": int(self.health()),
            "facts": facts_for_status(self.facts()),
            **self._executor.statistics(),
            "server": self._server.statistics() if self._server else None,
        }
