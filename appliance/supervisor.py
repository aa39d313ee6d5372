"""The planes put together: who gets what, in which order they start and stop, and what a crash of each means.

    builders =ws=> flashblocks => log => fan-out =ws=> subscribers
                        ^ build, seal  `<=> replication <=> peers' logs
    op-node => engine => EL, builders
    other appliances => builder_listen => builders
    op-node, op-batcher => providers => L1 endpoints
    clients => lb => nodes
    operators => admin (reads statistics)

The log is outermost: it opens before the planes and closes after them. On a stop the planes end one after the
other in the order of `PLANES`, each within its deadline; cancelling the outermost scope would close the log first.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
from appliance.admin.lb_routes import LbSources
from appliance.config.model import Config, EngineConfig, FanoutConfig, LbConfig, UpstreamConfig
from appliance.domain.errors import ApplianceError
from appliance.domain.health import STREAM, Health, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.builder_listen import BuilderListen
from appliance.engine.debug_api import DebugApi
from appliance.engine.events import EL
from appliance.engine.metrics import EngineMetrics
from appliance.engine.mode_switch import ModeSwitch
from appliance.engine.no_flashblocks import NoFlashblocks
from appliance.engine.ports import FlashblockStream
from appliance.engine.service import Engine, EngineSettings
from appliance.engine.upstream import MAX_ANSWER_BYTES, MAX_BUILDER_ANSWER_BYTES, Upstream
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
from appliance.lb.metrics import LbMetrics
from appliance.lb.service import LoadBalancer
from appliance.lb.settings import declared_nodes, lb_settings
from appliance.lifecycle import OnCrash, Plane, PlaneState
from appliance.net.http_server import open_listener
from appliance.providers.configured import group_settings
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.service import Providers
from appliance.reloading import Reloader
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
    "providers": OnCrash.RESTART,
    "lb": OnCrash.RESTART,
    "admin": OnCrash.RESTART,
}
STOP_DEADLINE_S: Final = 10.0
STOP_SPARE_S: Final = 2.0

Statistics = Callable[[], dict[str, object]]
RunOnListener = Callable[..., Awaitable[None]]


class Appliance:
    """The whole process but for its signals: give it a configuration, `run` it, `stop` it."""

    def __init__(self, config: Config) -> None:
        self.registry = create_registry()
        self.listening: dict[str, str] = {}
        self._reloader = Reloader(config, self.registry)
        self._planes: dict[str, Plane] = {}
        self._statistics: dict[str, Statistics] = {}
        self._stop_deadlines_s: dict[str, float] = {}
        self._engine: Engine | None = None
        self._fanout: Fanout | None = None
        self._builder_listen: BuilderListen | None = None
        self._lb: LoadBalancer | None = None
        self._switch: ModeSwitch | None = None
        self._providers: Providers | None = None
        self._replication: Replication | None = None
        self._started_at = time.monotonic()
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._restarts = Counter(
            "appliance_plane_restarts", "Planes that crashed and were started again", ["plane"], registry=self.registry
        )

    @property
    def _config(self) -> Config:
        return self._reloader.config

    def __repr__(self) -> str:
        return f"<Appliance {', '.join(map(repr, self._planes.values()))}>"

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called or a plane failed that must not."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin the orderly end of `run`."""
        self._stop.set()

    async def reload(self, load: Callable[[], Config]) -> bool:
        """Take over from the file that ``load`` reads what can change now; False when it is bad: nothing changes."""
        return await self._reloader.reload(load, self._apply)

    async def _apply(self, config: Config, secrets: Secrets) -> None:
        if self._fanout is not None and config.fanout is not None:
            await self._fanout.reload(_fanout_settings(config.fanout, secrets))

    async def wait_stopped(self) -> None:
        """Return when `run` has closed everything."""
        await self._stopped.wait()

    async def run(self, *, task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; ``started`` gets the addresses by plane once all planes are ready.

        Raises ConfigError or LogError, one clear line, when it cannot start, and ApplianceError after an orderly
        stop when a plane crashed that must not restart alone.
        """
        secrets = Secrets.load(self._config)
        self._reloader.started(secrets)
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
            "configuration": self._reloader.statistics(),
            "planes": {name: plane.statistics() | self._numbers(name) for name, plane in self._planes.items()},
            "flashlog": self._numbers("flashlog"),
        }

    def health(self) -> tuple[Health, list[HealthFact]]:
        """The engine's health, worsened by a plane that is down or a flashblock stream that is silent."""
        health, facts = Health.OK, []
        if self._engine is not None:
            health, facts = self._engine.health(), self._engine.facts()
        elif self._builder_listen is not None:
            health, facts = self._builder_listen.health(), self._builder_listen.facts()
        if any(fact.name == STREAM and not fact.healthy for fact in facts):
            health = max(health, Health.PARTIAL)
        if self._providers is not None:
            # Blocks are built without L1 for a while: for an engine's host it is no reason to hand over.
            worst = Health.PARTIAL if facts else Health.UNAVAILABLE
            health, facts = max(health, min(self._providers.health(), worst)), [*facts, *self._providers.facts()]
        if self._lb is not None:
            facts += self._lb.facts()
            if not self._lb.facts()[0].healthy:
                alone = self._engine is None and self._builder_listen is None and self._config.fanout is None
                health = max(health, Health.UNAVAILABLE if alone else Health.PARTIAL)
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
        for name, address in _listen_addresses(self._config):
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
            settings, metrics = _fanout_settings(self._config.fanout, secrets), FanoutMetrics.create(self.registry)
            fanout = self._fanout = Fanout(settings, flashlog, metrics, states=flashlog)
            # The drain is part of the stop, and must end by itself: who is cut is not told where to go on.
            self._stop_deadlines_s["fanout"] = max(STOP_DEADLINE_S, settings.stop_s + STOP_SPARE_S)
            self._add("fanout", partial(_on_listener, fanout.run, listeners["fanout"]), fanout.statistics)
        if self._config.lb is not None:
            self._compose_lb(self._config.lb, listeners["lb"])
        if self._config.providers:
            groups = [group_settings(group) for group in self._config.providers]
            providers = self._providers = Providers(groups, ProviderMetrics.create(self.registry))
            self._add("providers", partial(_on_listeners, providers.run, listeners), providers.statistics)
        if self._config.admin is not None:
            sources = AdminSources(
                self.registry, self.statistics, self.health, self._engine_sources(), self._lb_sources()
            )
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

    def _compose_lb(self, config: LbConfig, listener: socket) -> None:
        kept = OperatorState(Path(self._config.store.folder))
        metrics = LbMetrics.create(self.registry)
        lb = self._lb = LoadBalancer(lb_settings(config), declared_nodes(config), metrics, store=kept)
        self._add("lb", partial(_on_listener, lb.run, listener), lb.statistics)

    def _lb_sources(self) -> LbSources | None:
        lb = self._lb
        return None if lb is None else LbSources(lb.explain_nodes, lb.add_node, lb.remove_node)

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
                    await self._stop_plane(self._planes[name], listeners)

    async def _stop_plane(self, plane: Plane, listeners: dict[str, socket]) -> None:
        for listener in _of_plane(plane.name, listeners).values():
            # The plane has a duplicate. With this one open the kernel would go on taking connections that
            # nobody serves, and clients would hang instead of going elsewhere.
            listener.close()
        await plane.stop(self._stop_deadlines_s.get(plane.name, STOP_DEADLINE_S))

    def _raise_crash(self) -> None:
        for plane in self._planes.values():
            if plane.state is PlaneState.FAILED:
                raise ApplianceError(f"the plane {plane.name} crashed: {plane.crash!r}") from plane.crash


async def _connect(
    stack: AsyncExitStack,
    name: str,
    upstream: UpstreamConfig,
    secret: bytes,
    metrics: EngineMetrics,
    *,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> Upstream:
    timeout_s = upstream.timeout_ms / 1000
    opened = Upstream(name, upstream.url, secret, metrics, timeout_s=timeout_s, max_answer_bytes=max_answer_bytes)
    return await stack.enter_async_context(opened)


async def _connect_builders(
    stack: AsyncExitStack, config: EngineConfig, secrets: Secrets, metrics: EngineMetrics
) -> tuple[Upstream, ...]:
    connect = partial(_connect, stack, metrics=metrics, max_answer_bytes=MAX_BUILDER_ANSWER_BYTES)
    pairs = zip(config.builders, secrets.builders, strict=True)
    return tuple([await connect(builder.name, builder, secret) for builder, secret in pairs])


def _listen_addresses(config: Config) -> Iterator[tuple[str, str]]:
    """Where the planes listen; a provider group's name is behind a point."""
    for plane in PLANES:
        address = _listen_address(config, plane)
        if address is not None:
            yield plane, address
    for group in config.providers:
        yield f"providers.{group.name}", group.listen


def _of_plane(plane: str, listeners: dict[str, socket]) -> dict[str, socket]:
    """A plane's listeners: one under its own name, or several by what follows the point."""
    return {name.partition(".")[2]: each for name, each in listeners.items() if name.partition(".")[0] == plane}


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


async def _on_listeners(
    run: RunOnListener, listeners: dict[str, socket], *, stopping: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    """`_on_listener` for the provider groups: one listener each."""
    with ExitStack() as stack:
        shared = _of_plane("providers", listeners).items()
        own = {name: stack.enter_context(listener.dup()) for name, listener in shared}
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(run, own, stopping=stopping))
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


def _fanout_settings(config: FanoutConfig, secrets: Secrets) -> FanoutSettings:
    return FanoutSettings(
        max_subscribers=config.max_subscribers,
        max_per_ip=config.max_per_ip,
        max_lag=config.max_lag,
        proxies=config.proxies,
        ip_header=config.ip_header,
        ping_interval_s=config.ping_interval_s,
        pong_timeout_s=config.pong_timeout_s,
        api_keys=secrets.apps,
        public_access=config.public_access,
        deflate=config.deflate,
        drain_s=config.drain_s,
    )


def _address(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
