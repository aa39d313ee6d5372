"""The planes put together: who gets what, in which order they start and stop, and what a crash of each means.

    builders =ws=> flashblocks => log => fan-out =ws=> subscribers
                        ^ build, seal  `<=> replication <=> peers' logs
    op-node => engine => EL, builders
    other appliances => builder_listen => builders
    operators => admin (reads statistics)

The log is outermost: it opens before the planes and closes after them. On a stop the planes end one after the
other in the order of `PLANES`, each within its deadline; cancelling the outermost scope would close the log first.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from socket import socket
from typing import Final

import trio
from prometheus_client import Counter

import appliance.admin.service
from appliance import __version__
from appliance.admin.app import AdminSources, EngineSources
from appliance.config.model import Config, EngineConfig, FanoutConfig, UpstreamConfig
from appliance.domain.errors import ApplianceError
from appliance.domain.health import Health, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.builder_listen import BuilderListen
from appliance.engine.debug_api import DebugApi
from appliance.engine.events import EL
from appliance.engine.metrics import EngineMetrics
from appliance.engine.mode_switch import ModeSwitch
from appliance.engine.no_flashblocks import NoFlashblocks
from appliance.engine.ports import FlashblockStream
from appliance.engine.service import Engine, EngineSettings
from appliance.engine.upstream import Upstream
from appliance.engine.validation import BlockValidator, NoValidator
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.service import Fanout, FanoutSettings
from appliance.flashblocks.ingest import BuilderSource
from appliance.flashblocks.metrics import FlashblockMetrics
from appliance.flashblocks.service import FlashblockService, FlashblockSettings
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.operator_state import OperatorState
from appliance.flashlog.retention import RetentionLimits
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.lifecycle import OnCrash, Plane, PlaneState
from appliance.net.http_server import open_listener
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.service import Replication
from appliance.replication.settings import replication_settings
from appliance.secrets import Secrets
from appliance.telemetry.logging import get_logger
from appliance.telemetry.metrics import GarbageCollectionPauses, create_registry

log = get_logger("supervisor")

# Block production depends on the engine, and what was promised on the log: without them the process has no
# purpose, and systemd starts it again. Nothing that a subscriber, peer or operator does may stop blocks.
# The order is that of the stop: nothing new is built or read before those who read the log are told to leave.
PLANES: Final = {
    "engine": OnCrash.END,
    "debug": OnCrash.RESTART,
    "builder_listen": OnCrash.RESTART,
    "flashblocks": OnCrash.RESTART,
    "replication": OnCrash.RESTART,
    "fanout": OnCrash.RESTART,
    "admin": OnCrash.RESTART,
}
STOP_DEADLINE_S: Final = 10.0

Statistics = Callable[[], dict[str, object]]
RunOnListener = Callable[..., Awaitable[None]]


class Appliance:
    """The whole process but for its signals: give it a configuration, `run` it, `stop` it."""

    def __init__(self, config: Config) -> None:
        self.registry = create_registry()
        self.listening: dict[str, str] = {}
        self._config = config
        self._planes: dict[str, Plane] = {}
        self._statistics: dict[str, Statistics] = {}
        self._engine: Engine | None = None
        self._builder_listen: BuilderListen | None = None
        self._switch: ModeSwitch | None = None
        self._replication: Replication | None = None
        self._started_at = time.monotonic()
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._restarts = Counter(
            "appliance_plane_restarts", "Planes that crashed and were started again", ["plane"], registry=self.registry
        )

    def __repr__(self) -> str:
        return f"<Appliance {', '.join(map(repr, self._planes.values()))}>"

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called or a plane failed that must not."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin the orderly end of `run`."""
        self._stop.set()

    async def wait_stopped(self) -> None:
        """Return when `run` has closed everything."""
        await self._stopped.wait()

    async def run(self, *, task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; ``started`` gets the addresses by plane once all planes are ready.

        Raises ConfigError or LogError, one clear line, when it cannot start, and ApplianceError after an orderly
        stop when a plane crashed that must not restart alone.
        """
        secrets = Secrets.load(self._config)
        try:
            with ExitStack() as sockets:
                listeners = self._open_listeners(sockets)
                async with self._open_log() as flashlog, AsyncExitStack() as upstreams:
                    await self._compose(secrets, listeners, flashlog, upstreams)
                    await self._run_planes(listeners, task_status)
        finally:
            self._stopped.set()
        log.info("stopped")
        self._raise_crash()

    def statistics(self) -> dict[str, object]:
        """The report of `/api/v1/status`."""
        health, facts = self.health()
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._started_at, 3),
            "health": {"status": health.name.lower(), "facts": facts},
            "listening": self.listening,
            "planes": {name: plane.statistics() | self._numbers(name) for name, plane in self._planes.items()},
            "flashlog": self._numbers("flashlog"),
        }

    def health(self) -> tuple[Health, list[HealthFact]]:
        """The engine's health, worsened by a plane that is down."""
        health, facts = Health.OK, []
        if self._engine is not None:
            health, facts = self._engine.health(), self._engine.facts()
        elif self._builder_listen is not None:
            health, facts = self._builder_listen.health(), self._builder_listen.facts()
        for name, plane in self._planes.items():
            if plane.state is not PlaneState.RUNNING:
                health = max(health, Health.PARTIAL)
                facts.append(HealthFact(name, healthy=False, reason=f"the plane is {plane.state}"))
        held = self._replication.facts() if self._replication else []
        if held:
            health = max(health, Health.PARTIAL)
            facts.extend(held)
        return health, facts

    def _numbers(self, name: str) -> dict[str, object]:
        source = self._statistics.get(name)
        return source() if source else {}

    def _open_listeners(self, stack: ExitStack) -> dict[str, socket]:
        """All ports, before anything else starts: a port in use is the first thing that is said."""
        listeners = {}
        for name in PLANES:
            address = _listen_address(self._config, name)
            if address is not None:
                listeners[name] = stack.enter_context(open_listener(address))
                self.listening[name] = _address(listeners[name])
        return listeners

    @asynccontextmanager
    async def _open_log(self) -> AsyncIterator[FlashLog | None]:
        """The log, where a plane writes or reads it."""
        replication = self._config.replication
        if self._config.flashblocks is None and self._config.fanout is None and replication is None:
            yield None
            return
        async with open_flashlog(
            Path(self._config.store.folder),
            retention=_retention_limits(self._config),
            metrics=FlashlogMetrics.create(self.registry),
            commit_on_append=replication is None,
        ) as flashlog:
            self._statistics["flashlog"] = flashlog.statistics
            yield flashlog

    async def _compose(
        self,
        secrets: Secrets,
        listeners: dict[str, socket],
        flashlog: FlashLog | None,
        upstreams: AsyncExitStack,
    ) -> None:
        if self._config.engine is not None:
            await self._compose_engine(self._config.engine, secrets, listeners, flashlog, upstreams)
        if self._config.replication is not None and flashlog is not None:
            replication = self._replication = Replication(
                replication_settings(self._config.replication, secrets.replication),
                flashlog,
                ReplicationMetrics.create(self.registry),
            )
            run = partial(_on_listener, replication.run, listeners["replication"])
            self._add("replication", run, replication.statistics)
        if self._config.fanout is not None and flashlog is not None:
            fanout = Fanout(_fanout_settings(self._config.fanout), flashlog, FanoutMetrics.create(self.registry))
            self._add("fanout", partial(_on_listener, fanout.run, listeners["fanout"]), fanout.statistics)
        if self._config.admin is not None:
            sources = AdminSources(self.registry, self.statistics, self.health, self._engine_sources())
            serve = partial(appliance.admin.service.run, sources, token=secrets.admin_token)
            self._add("admin", partial(_on_listener, serve, listeners["admin"]))

    async def _compose_engine(
        self,
        config: EngineConfig,
        secrets: Secrets,
        listeners: dict[str, socket],
        flashlog: FlashLog | None,
        upstreams: AsyncExitStack,
    ) -> None:
        """The engine, the builder listener, or both. The flashblock stream is the engine's where there is one."""
        stream: FlashblockStream | None = None
        if config.l2 is not None:
            metrics = EngineMetrics.create(self.registry)
            el = await _connect(upstreams, EL, config.l2, secrets.el, metrics)
            builders = await _connect_builders(upstreams, config, secrets, metrics)
            stream = self._compose_flashblocks(config, BlockValidator(el), flashlog)
            switch = self._switch = await self._load_switch(config)
            settings = _engine_settings(config, secrets.engine)
            engine = self._engine = Engine(settings, el, builders, stream, metrics, switch=switch)
            self._add("engine", partial(_on_listener, engine.run, listeners["engine"]), engine.statistics)
            self._add("debug", partial(_on_listener, DebugApi(switch).run, listeners["debug"]))
        if config.builder_listen is not None:
            metrics = EngineMetrics.create(self.registry, "builder_listen")
            builders = await _connect_builders(upstreams, config, secrets, metrics)
            own = NoFlashblocks() if stream else self._compose_flashblocks(config, NoValidator(), flashlog)
            settings = _engine_settings(config, secrets.builder_listen)
            pool = self._builder_listen = BuilderListen(settings, builders, own, metrics)
            self._add("builder_listen", partial(_on_listener, pool.run, listeners["builder_listen"]), pool.statistics)

    async def _load_switch(self, config: EngineConfig) -> ModeSwitch:
        kept = OperatorState(Path(self._config.store.folder))
        switch = ModeSwitch(ExecutionMode(config.execution_mode), kept)
        await switch.load()
        return switch

    def _engine_sources(self) -> EngineSources | None:
        engine, switch = self._engine, self._switch
        if engine is None or switch is None:
            return None

        def mode() -> dict[str, object]:
            return switch.status.as_object()

        async def throw(mode: ExecutionMode, who: str) -> dict[str, object]:
            return (await switch.throw(mode, who)).as_object()

        return EngineSources(mode, throw, engine.history.recent, engine.history.find)

    def _compose_flashblocks(
        self, config: EngineConfig, validator: BlockValidator | NoValidator, flashlog: FlashLog | None
    ) -> FlashblockStream:
        if self._config.flashblocks is None or flashlog is None:
            return NoFlashblocks()
        service = FlashblockService(
            FlashblockSettings(execution=self._config.flashblocks.validation == "execution"),
            [BuilderSource(each.name, each.flashblocks_url) for each in config.builders if each.flashblocks_url],
            sink=flashlog,
            validator=validator,
            metrics=FlashblockMetrics.create(self.registry),
        )
        self._add("flashblocks", service.run, service.statistics)
        return service

    def _add(self, name: str, run: RunOnListener, statistics: Statistics | None = None) -> None:
        restarted = self._restarts.labels(name)
        self._planes[name] = Plane(name, run, PLANES[name], count_restart=restarted.inc)
        if statistics is not None:
            self._statistics[name] = statistics

    async def _run_planes(self, listeners: dict[str, socket], task_status: trio.TaskStatus[dict[str, str]]) -> None:
        pauses = GarbageCollectionPauses(self.registry)
        async with trio.open_nursery() as nursery:
            for plane in self._planes.values():
                await nursery.start(plane.supervise, lambda _failed: self.stop())
            pauses.install()
            log.info("ready", version=__version__, planes=list(self._planes), listening=self.listening)
            task_status.started(self.listening)
            await self._stop.wait()
            pauses.remove()
            for name in PLANES:
                if name in self._planes:
                    await self._stop_plane(self._planes[name], listeners.get(name))

    async def _stop_plane(self, plane: Plane, listener: socket | None) -> None:
        if listener is not None:
            # The plane has a duplicate. With this one open the kernel would go on taking connections that
            # nobody serves, and clients would hang instead of going elsewhere.
            listener.close()
        await plane.stop(STOP_DEADLINE_S)

    def _raise_crash(self) -> None:
        for plane in self._planes.values():
            if plane.state is PlaneState.FAILED:
                raise ApplianceError(f"the plane {plane.name} crashed: {plane.crash!r}") from plane.crash


async def _connect(
    stack: AsyncExitStack, name: str, upstream: UpstreamConfig, secret: bytes, metrics: EngineMetrics
) -> Upstream:
    timeout_s = upstream.timeout_ms / 1000
    return await stack.enter_async_context(Upstream(name, upstream.url, secret, metrics, timeout_s=timeout_s))


async def _connect_builders(
    stack: AsyncExitStack, config: EngineConfig, secrets: Secrets, metrics: EngineMetrics
) -> tuple[Upstream, ...]:
    pairs = zip(config.builders, secrets.builders, strict=True)
    return tuple([await _connect(stack, builder.name, builder, secret, metrics) for builder, secret in pairs])


def _listen_address(config: Config, plane: str) -> str | None:
    """Where a plane listens; None for one that does not, or does not run."""
    if plane == "builder_listen":
        return config.engine.builder_listen.listen if config.engine and config.engine.builder_listen else None
    if plane in {"engine", "debug"}:
        if config.engine is None or config.engine.l2 is None:
            return None
        return config.engine.listen if plane == "engine" else config.engine.debug_listen
    section = getattr(config, plane)
    return getattr(section, "listen", None)


async def _on_listener(
    run: RunOnListener, listener: socket, *, stopping: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    """Run a plane on a duplicate of its listener: when it restarts, clients have waited in the backlog."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run, listener.dup(), stopping=stopping))
        task_status.started()


def _engine_settings(config: EngineConfig, secret: bytes) -> EngineSettings:
    return EngineSettings(
        jwt_secret=secret,
        policy=config.policy,
        min_gas_share=config.min_gas_share,
        ignore_unhealthy_builders=config.ignore_unhealthy_builders,
        external_state_root=config.external_state_root,
        builder_deadline_s=config.builder_deadline_ms / 1000,
        max_unsafe_interval_s=config.max_unsafe_interval_s,
        health_check_interval_s=config.health_check_interval_s,
    )


def _retention_limits(config: Config) -> RetentionLimits:
    limits, replication = config.flashlog, config.replication
    return RetentionLimits(
        max_age_s=limits.retention_hours * 3600,
        max_bytes=limits.retention_mib * 2**20,
        wait_age_s=replication.retention_wait_hours * 3600 if replication else 0,
        wait_bytes=replication.retention_wait_mib * 2**20 if replication else 0,
    )


def _fanout_settings(config: FanoutConfig) -> FanoutSettings:
    return FanoutSettings(
        max_subscribers=config.max_subscribers,
        max_per_ip=config.max_per_ip,
        max_lag=config.max_lag,
        proxies=config.proxies,
        ip_header=config.ip_header,
        ping_interval_s=config.ping_interval_s,
        pong_timeout_s=config.pong_timeout_s,
    )


def _address(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
