"""The engine: Engine API for op-node over one local execution client (EL) and n builders."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from appliance.domain.errors import ConfigError
from appliance.domain.health import STREAM, Health, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.events import ASSEMBLED, EL
from appliance.engine.executor import Executor
from appliance.engine.frontend import Frontend
from appliance.engine.health_watch import HealthWatch
from appliance.engine.metrics import EngineMetrics
from appliance.engine.mode_switch import MODE_NUMBERS, ModeSwitch
from appliance.engine.multiplexer import Multiplexer
from appliance.engine.payload_history import PayloadHistory
from appliance.engine.policies import policy_named
from appliance.engine.ports import FlashblockStream
from appliance.engine.serving import facts_for_status, serve, stream_facts
from appliance.engine.upstream import Upstream
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer

_MIB: Final = 1024 * 1024


def _default_limits() -> HttpLimits:
    # op-node keeps its few connections for hours; a block of 30 MB of transactions is 60 MB of hex.
    return HttpLimits(
        max_connections=256, max_body_bytes=64 * _MIB, max_body_bytes_in_flight=256 * _MIB, idle_timeout_s=600.0
    )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``jwt_secret`` is what op-node signs with. Times in seconds."""

    jwt_secret: bytes
    policy: str = "builder"
    min_gas_share: float | None = None
    ignore_unhealthy_builders: bool = False
    external_state_root: bool = False
    builder_deadline_s: float = 1.0
    max_unsafe_interval_s: float = 10.0
    health_check_interval_s: float = 60.0
    drain_timeout_s: float = 5.0
    limits: HttpLimits = field(default_factory=_default_limits)


class Engine:
    """What op-node connects to.

    ``builders`` in the order of preference; ``switch`` says how far they are used, without one they are.
    Upstreams are opened and closed by the caller, around `run`. Raises ConfigError for an unknown policy, and
    for builders whose names cannot be told apart.
    """

    def __init__(
        self,
        settings: EngineSettings,
        el: Upstream,
        builders: tuple[Upstream, ...],
        stream: FlashblockStream,
        metrics: EngineMetrics,
        *,
        switch: ModeSwitch | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        names = tuple(builder.name for builder in builders)
        check_names(names)
        machine = Multiplexer(
            names,
            policy_named(settings.policy, settings.min_gas_share),
            settings.builder_deadline_s,
            external_state_root=settings.external_state_root,
        )
        self._settings = settings
        self._el = el
        self._stream = stream
        self._health = HealthWatch(
            el,
            builders,
            metrics,
            interval_s=settings.health_check_interval_s,
            max_unsafe_interval_s=settings.max_unsafe_interval_s,
            wall_clock=wall_clock,
        )
        self._executor = Executor(
            machine,
            el,
            builders,
            stream,
            self._health,
            metrics,
            ignore_unhealthy=settings.ignore_unhealthy_builders,
        )
        self._frontend = Frontend(
            settings.jwt_secret, self._executor.ask, self.health, metrics, facts=self.facts, wall_clock=wall_clock
        )
        self._server: HttpServer | None = None
        self._in_hand = 0
        self._metrics = metrics
        metrics.health.set_function(lambda: float(self.health()))
        self._switch = switch or ModeSwitch()
        self._switch.connect(self._set_mode)

    def _set_mode(self, mode: ExecutionMode) -> None:
        self._executor.set_mode(mode)
        self._metrics.execution_mode.set(MODE_NUMBERS[mode])

    @property
    def history(self) -> PayloadHistory:
        """The last decisions."""
        return self._executor.history

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve op-node on ``listener`` until ``stopping`` is set, then drain; ``started`` gets the server."""
        self._server = HttpServer(
            self.handle,
            listener,
            limits=self._settings.limits,
            stopping=stopping,
            drain_timeout_s=self._settings.drain_timeout_s,
            name="engine",
            on_head=self._frontend.on_head,
        )
        await serve(self._server, self._executor, self._health, task_status=task_status)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request of op-node or op-conductor."""
        self._in_hand += 1
        try:
            return await self._frontend.handle(request)
        finally:
            self._in_hand -= 1

    def is_busy(self) -> bool:
        """Whether a request is being handled."""
        return self._in_hand > 0

    def health(self) -> Health:
        """What /healthz answers; while builders are switched off it is the EL's health alone."""
        return self._health.status

    def facts(self) -> list[HealthFact]:
        """Each upstream with its reason, the EL first, then the flashblock stream.

        While builders are switched off only the EL; in a dry run no flashblocks are shown, so they are no fact.
        """
        return self._health.facts() + stream_facts(self._stream, self._executor.mode)

    def statistics(self) -> dict[str, object]:
        """For `/api/v1/status`."""
        return {
            "policy": self._settings.policy,
            "mode": self._switch.status.as_object(),
            "health": int(self.health()),
            "facts": facts_for_status(self.facts()),
            "l2": self._el.statistics(),
            **self._executor.statistics(),
            "server": self._server.statistics() if self._server else None,
        }


def check_names(names: tuple[str, ...]) -> None:
    """Raises ConfigError for builders whose names cannot be told apart."""
    taken = {EL, ASSEMBLED, STREAM}
    for name in names:
        if name in taken:
            raise ConfigError(f"engine.builders: the name {name!r} is reserved or given twice")
        taken.add(name)
