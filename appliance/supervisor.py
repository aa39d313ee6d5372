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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
from prometheus_client import Counter

import appliance.admin.service
from appliance import __version__, exposed_secrets
from appliance.admin.app import AdminSources, EngineSources
from appliance.admin.lb_routes import LbSources
from appliance.config.model import Config, EngineConfig, LbConfig
from appliance.domain.errors import ApplianceError
from appliance.domain.health import Health, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.engine.builder_listen import BuilderListen
from appliance.engine.configured import Upstreams, engine_settings
from appliance.engine.debug_api import DebugApi
from appliance.engine.metrics import EngineMetrics
from appliance.engine.mode_switch import ModeSwitch
from appliance.engine.no_flashblocks import NoFlashblocks
from appliance.engine.ports import FlashblockStream
from appliance.engine.service import Engine
from appliance.engine.validation import BlockValidator, NoValidator
from appliance.fanout.configured import fanout_settings
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.pacing import never
from appliance.fanout.service import Fanout, FanoutSettings
from appliance.flashblocks.ingest import BuilderSource
from appliance.flashblocks.metrics import FlashblockMetrics
from appliance.flashblocks.service import FlashblockService, FlashblockSettings
from appliance.flashlog.configured import keeps_a_log, retention_limits
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.operator_state import OperatorState
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.lb.metrics import LbMetrics
from appliance.lb.service import LoadBalancer
from appliance.lb.settings import declared_nodes, lb_settings
from appliance.lifecycle import OnCrash, Plane, PlaneState
from appliance.listeners import Listeners
from appliance.overall_health import Report, overall
from appliance.providers.configured import group_settings
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.service import Providers
from appliance.providers.settings import GroupSettings
from appliance.reloading import Reloader
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.service import Replication
from appliance.replication.settings import ReplicationSettings, replication_settings
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
RunPlane = Callable[..., Awaitable[None]]


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
        self._reports: list[Callable[[], Report]] = []
        self._switch: ModeSwitch | None = None
        self._started_at = time.monotonic()
        self._composed = trio.Event()
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
        """Take over from the file that ``load`` reads what can change now; False when it is bad: nothing changes.

        While `run` puts the planes together it waits: they would get half of the old and half of the new.
        """
        await self._composed.wait()
        return await self._reloader.reload(load, self._apply)

    async def _apply(self, config: Config, secrets: Secrets) -> None:
        if self._fanout is not None and config.fanout is not None:
            await self._fanout.reload(fanout_settings(config.fanout, secrets.apps))
        if self._lb is not None and config.lb is not None:
            await self._lb.reload(declared_nodes(config.lb))

    async def wait_stopped(self) -> None:
        """Return when `run` has closed everything."""
        await self._stopped.wait()

    async def run(self, *, task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; ``started`` gets the addresses by plane once all planes are ready.

        Raises ConfigError or LogError, one clear line, when it cannot start, and ApplianceError after an orderly
        stop when a plane crashed that must not restart alone.
        """
        secrets = Secrets.load(self._config)
        exposed_secrets.warn(self._config)
        self._reloader.started(secrets)
        try:
            with ExitStack() as sockets:
                listeners = Listeners(self._config, sockets)
                self.listening |= listeners.addresses
                async with self._open_log() as flashlog, AsyncExitStack() as upstreams:
                    await self._compose(secrets, listeners, flashlog, upstreams)
                    self._composed.set()
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
        """The engine's health, worsened by what is wrong with the planes beside it (overall_health.py)."""
        down = [
            HealthFact(name, healthy=False, reason=f"the plane is {plane.state}")
            for name, plane in self._planes.items()
            if plane.state is not PlaneState.RUNNING
        ]
        report = overall(self._blocks(), [report() for report in self._reports], down)
        return report.health, list(report.facts)

    def _blocks(self) -> Report | None:
        source = self._engine or self._builder_listen
        return Report(source.health(), source.facts()) if source else None

    def _numbers(self, name: str) -> dict[str, object]:
        source = self._statistics.get(name)
        return source() if source else {}

    @asynccontextmanager
    async def _open_log(self) -> AsyncIterator[FlashLog | None]:
        """The log, where a plane writes or reads it."""
        if not keeps_a_log(self._config):
            yield None
            return
        async with open_flashlog(
            Path(self._config.store.folder),
            retention=retention_limits(self._config),
            metrics=FlashlogMetrics.create(self.registry),
            commit_on_append=self._config.replication is None,
        ) as flashlog:
            self._statistics["flashlog"] = flashlog.statistics
            yield flashlog

    async def _compose(
        self, secrets: Secrets, listeners: Listeners, flashlog: FlashLog | None, upstreams: AsyncExitStack
    ) -> None:
        config = self._config
        if config.engine is not None:
            await self._compose_engine(config.engine, secrets, listeners, flashlog, upstreams)
        if config.replication is not None and flashlog is not None:
            self._compose_replication(
                replication_settings(config.replication, secrets.replication), listeners, flashlog
            )
        if config.fanout is not None and flashlog is not None:
            self._compose_fanout(fanout_settings(config.fanout, secrets.apps), listeners, flashlog)
        if config.lb is not None:
            self._compose_lb(config.lb, listeners)
        if config.providers:
            self._compose_providers([group_settings(group) for group in config.providers], listeners)
        if config.admin is not None:
            serve = partial(appliance.admin.service.run, self._admin_sources(), token=secrets.admin_token)
            self._add("admin", listeners.one("admin", serve))

    async def _compose_engine(
        self,
        config: EngineConfig,
        secrets: Secrets,
        listeners: Listeners,
        flashlog: FlashLog | None,
        stack: AsyncExitStack,
    ) -> None:
        """The engine, the builder listener, or both. The flashblock stream is the engine's where there is one."""
        stream: FlashblockStream | None = None
        if config.l2 is not None:
            metrics = EngineMetrics.create(self.registry)
            upstreams = Upstreams(stack, metrics)
            el = await upstreams.execution_client(config.l2, secrets.el)
            builders = await upstreams.builders(config, secrets.builders)
            stream = self._compose_flashblocks(config, BlockValidator(el), flashlog)
            switch = self._switch = await self._load_switch(config)
            settings = engine_settings(config, secrets.engine)
            engine = self._engine = Engine(settings, el, builders, stream, metrics, switch=switch)
            self._add("engine", listeners.one("engine", engine.run), engine.statistics)
            self._add("debug", listeners.one("debug", DebugApi(switch).run))
        if config.builder_listen is not None:
            metrics = EngineMetrics.create(self.registry, "builder_listen")
            builders = await Upstreams(stack, metrics).builders(config, secrets.builders)
            own = NoFlashblocks() if stream else self._compose_flashblocks(config, NoValidator(), flashlog)
            settings = engine_settings(config, secrets.builder_listen)
            pool = self._builder_listen = BuilderListen(settings, builders, own, metrics)
            self._add("builder_listen", listeners.one("builder_listen", pool.run), pool.statistics)

    def _compose_replication(self, settings: ReplicationSettings, listeners: Listeners, flashlog: FlashLog) -> None:
        replication = Replication(settings, flashlog, ReplicationMetrics.create(self.registry))
        self._add("replication", listeners.one("replication", replication.run), replication.statistics)

        def report() -> Report:
            held = replication.facts()
            return Report(Health.PARTIAL if held else Health.OK, held)

        self._reports.append(report)

    def _compose_fanout(self, settings: FanoutSettings, listeners: Listeners, flashlog: FlashLog) -> None:
        hurried = self._engine.is_busy if self._engine else never
        metrics = FanoutMetrics.create(self.registry)
        fanout = self._fanout = Fanout(settings, flashlog, metrics, states=flashlog, hurried=hurried)
        # The drain is part of the stop, and must end by itself: who is cut is not told where to go on.
        self._stop_deadlines_s["fanout"] = max(STOP_DEADLINE_S, settings.stop_s + STOP_SPARE_S)
        self._add("fanout", listeners.one("fanout", fanout.run), fanout.statistics)
        self._reports.append(lambda: Report(Health.OK, ()))

    def _compose_lb(self, config: LbConfig, listeners: Listeners) -> None:
        kept = OperatorState(Path(self._config.store.folder))
        metrics = LbMetrics.create(self.registry)
        lb = self._lb = LoadBalancer(lb_settings(config), declared_nodes(config), metrics, store=kept)
        self._add("lb", listeners.one("lb", lb.run), lb.statistics)
        self._reports.append(lambda: Report(lb.health(), lb.facts()))

    def _compose_providers(self, groups: list[GroupSettings], listeners: Listeners) -> None:
        providers = Providers(groups, ProviderMetrics.create(self.registry))
        self._add("providers", listeners.several("providers", providers.run), providers.statistics)
        self._reports.append(lambda: Report.of_facts(providers.facts()))

    def _admin_sources(self) -> AdminSources:
        lb = self._lb
        nodes = LbSources(lb.explain_nodes, lb.add_node, lb.remove_node) if lb else None
        return AdminSources(self.registry, self.statistics, self.health, self._engine_sources(), nodes)

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

    def _add(self, name: str, run: RunPlane, statistics: Statistics | None = None) -> None:
        restarted = self._restarts.labels(name)
        self._planes[name] = Plane(name, run, PLANES[name], count_restart=restarted.inc)
        if statistics is not None:
            self._statistics[name] = statistics

    async def _run_planes(self, listeners: Listeners, task_status: trio.TaskStatus[dict[str, str]]) -> None:
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
                    listeners.close(name)
                    await self._planes[name].stop(self._stop_deadlines_s.get(name, STOP_DEADLINE_S))

    def _raise_crash(self) -> None:
        for plane in self._planes.values():
            if plane.state is PlaneState.FAILED:
                raise ApplianceError(f"the plane {plane.name} crashed: {plane.crash!r}") from plane.crash
