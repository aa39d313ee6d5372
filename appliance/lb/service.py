"""The load balancer as a plane: put together anew for every run, so that a restart begins with empty hands."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from appliance.domain.health import Health, HealthFact
from appliance.lb.attestation import NO_VERIFIERS, Verifiers
from appliance.lb.checks import Checker, CheckRules
from appliance.lb.dispatch import Dispatcher
from appliance.lb.held_answers import HeldAnswers
from appliance.lb.metrics import PRIORITY_NAMES, LbMetrics
from appliance.lb.node import Node, NodeSettings
from appliance.lb.node_health import NodeState
from appliance.lb.node_set import DeclaredNode, NodeRefused, NodeSet, NodeStore
from appliance.lb.queue import Priority, QueueRules
from appliance.lb.rate_limit import Rate, RateLimit
from appliance.lb.relay import Relay, RelayRules, Waiting
from appliance.lb.request_log import RequestLog
from appliance.lb.server import TOO_LARGE, Face, FaceSettings
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer
from appliance.net.readiness import Readiness

NO_LIMIT: Final = Rate(0.0, 1)
_BODIES_IN_FLIGHT_BYTES: Final = 256 * 1024 * 1024
"""Bodies that wait or are sent: one that does not fit is answered 503 with Retry-After before it is read."""


@dataclass(frozen=True, slots=True)
class LbSettings:
    """What the plane is to do. ``max_body_bytes`` bounds requests, ``max_held_bytes`` all answers that wait for
    their clients; times in seconds."""

    queue: QueueRules = field(default_factory=QueueRules)
    relay: RelayRules = field(default_factory=RelayRules)
    nodes: NodeSettings = field(default_factory=NodeSettings)
    checks: CheckRules = field(default_factory=CheckRules)
    face: FaceSettings = field(default_factory=FaceSettings)
    instance_rate: Rate = NO_LIMIT
    key_rate: Rate = NO_LIMIT
    fast_track_reserve: int = 0
    max_body_bytes: int = 8192 * 1024
    max_held_bytes: int = 512 * 1024 * 1024
    max_connections: int = 4096
    log_requests: bool = True
    drain_timeout_s: float = 8.0


class LoadBalancer:
    """``declared`` are the configuration's nodes, ``store`` keeps those that are added; None keeps nothing."""

    def __init__(
        self,
        settings: LbSettings,
        declared: tuple[DeclaredNode, ...],
        metrics: LbMetrics,
        *,
        store: NodeStore | None = None,
        verifiers: Verifiers = NO_VERIFIERS,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._declared = declared
        self._metrics = metrics
        self._store = store
        self._verifiers = verifiers
        self._wall_clock = wall_clock
        self._server: HttpServer | None = None
        self._assemble()
        self._show_gauges()

    def _assemble(self) -> None:
        settings = self._settings
        self._dispatcher: Dispatcher[Waiting, Node] = Dispatcher(
            settings.queue, fast_track_reserve=settings.fast_track_reserve
        )
        self._readiness = Readiness()
        self._relay = Relay(self._dispatcher, settings.relay, self._metrics)
        self._log = RequestLog(wanted=settings.log_requests)
        self._nodes = NodeSet(
            self._dispatcher,
            self._relay,
            Checker(settings.checks),
            settings.nodes,
            store=self._store,
            verifiers=self._verifiers,
            wall_clock=self._wall_clock,
            readiness=self._readiness,
        )
        limit = RateLimit(settings.instance_rate, settings.key_rate)
        self._held = HeldAnswers(settings.max_held_bytes)
        face = (self._dispatcher, self._relay, self._nodes, limit, self._held, self._metrics, self._log)
        self._face = Face(settings.face, *face)

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stopping`` is set, then finish what runs and waits; ``started`` gets the server.

        Raises `NodeUriError` for a declared node whose URL is none, or that cannot be attested.
        """
        self._assemble()
        self._server = HttpServer(
            self._face.handle,
            listener,
            limits=self._limits(),
            stopping=stopping,
            drain_timeout_s=self._settings.drain_timeout_s,
            name="lb",
            quick=(self._face.begin, self._readiness),
        )
        with listener:  # the server's, unless a node keeps it from starting
            try:
                await self._serve(self._server, task_status)
            finally:
                for node in self._nodes.nodes:
                    node.retire()

    async def _serve(self, server: HttpServer, task_status: trio.TaskStatus[HttpServer]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._readiness.run)
            await nursery.start(self._relay.run)
            nursery.start_soon(self._log.run)
            await nursery.start(self._nodes.run, lambda: self._declared)
            await server.run(task_status=task_status)
            nursery.cancel_scope.cancel()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request."""
        return await self._face.handle(request)

    async def add_node(self, uri: str, workers: int | None, who: str) -> dict[str, object]:
        """For the admin API: the node as `explain_nodes` has it. Raises `ApplianceError` with the reason."""
        node = await self._nodes.add(uri, workers, who)
        return node.explain(trio.current_time())

    async def remove_node(self, uri: str, who: str) -> None:
        """For the admin API; `explain_nodes` says when that could not be kept. Raises `NodeRefused`."""
        await self._nodes.remove(uri, who)

    async def reload(self, declared: tuple[DeclaredNode, ...]) -> None:
        """The configuration names these nodes now, all of them checked for their form."""
        self._declared = declared  # also for the next run, after a crash
        await self._nodes.declare(declared)

    def explain_nodes(self) -> dict[str, object]:
        """For the admin API: each node, its state and why; ``problem`` is why some of them are missing, or will
        be after a restart."""
        return {"nodes": self._nodes.explain(), "problem": self._nodes.problem}

    def health(self) -> Health:
        """Whether requests can be served, by all the nodes that there should be."""
        if self._dispatcher.refusal() is not None:
            return Health.UNAVAILABLE
        return Health.OK if self._nodes.unread is None else Health.PARTIAL

    def facts(self) -> list[HealthFact]:
        """Whether requests can be served, and whether the kept nodes could be read."""
        refusal = self._dispatcher.refusal()
        nodes = self._nodes.nodes
        used = sum(node.capacity > 0 for node in nodes)
        last_resort = sum(node.health.last_resort for node in nodes)
        reason = f"{used} of {len(nodes)} nodes get requests" if refusal is None else refusal.value
        if last_resort:
            reason += f", {last_resort} of them as a last resort"
        facts = [HealthFact("lb nodes", healthy=refusal is None, reason=reason)]
        if self._nodes.unread is not None:
            facts.append(HealthFact("lb kept nodes", healthy=False, reason=self._nodes.unread))
        return facts

    def statistics(self) -> dict[str, object]:
        """For `/api/v1/status`."""
        fast, high, low = self._dispatcher.queue.sizes()
        return {
            "queue": {"fast_track": fast, "high": high, "low": low},
            "in_flight": sum(node.in_flight for node in self._nodes.nodes),
            "held_bytes": self._held.taken,
            "nodes": self._nodes.explain(),
            "nodes_problem": self._nodes.problem,
            "server": self._server.statistics() if self._server else None,
        }

    def _limits(self) -> HttpLimits:
        settings = self._settings
        return HttpLimits(
            max_connections=settings.max_connections,
            max_body_bytes=settings.max_body_bytes,
            max_body_bytes_in_flight=max(_BODIES_IN_FLIGHT_BYTES, settings.max_body_bytes),
            too_large=TOO_LARGE,
        )

    def _show_gauges(self) -> None:
        metrics = self._metrics
        metrics.in_flight.set_function(lambda: float(sum(node.in_flight for node in self._nodes.nodes)))
        metrics.held_bytes.set_function(lambda: float(self._held.taken))
        for priority in Priority:
            depth = metrics.queue_depth.labels(PRIORITY_NAMES[priority])
            depth.set_function(partial(self._depth, priority))
        for state in NodeState:
            count = metrics.nodes.labels(str(state))
            count.set_function(partial(self._count, state))

    def _depth(self, priority: Priority) -> float:
        return float(self._dispatcher.queue.sizes()[priority])

    def _count(self, state: NodeState) -> float:
        return float(sum(node.health.state is state for node in self._nodes.nodes))


__all__ = ["LbSettings", "LoadBalancer", "NodeRefused"]
