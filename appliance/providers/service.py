"""The providers' plane: for each group a listener, its endpoints' connections and what follows them.

op-node, op-batcher ═HTTP, websocket═▶ Frontend ─▶ Group ─▶ links ═▶ endpoints, the first one that is well
                      Client ◀─ Feeds ◀─ heads, logs, pending transactions
                                           watchers: probes, polls, the mempool
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from appliance.domain.health import Health, HealthFact
from appliance.net import websocket_handshake as handshake
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Connection, HttpLimits, HttpServer, Upgrade
from appliance.net.websocket_handshake import NotAWebsocket
from appliance.net.websocket_server import GOING_AWAY, ServerWebsocket, WebsocketLimits
from appliance.providers.client import Client
from appliance.providers.feeds import Feeds
from appliance.providers.frontend import Frontend
from appliance.providers.group import Group
from appliance.providers.links import open_link
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.settings import GroupSettings
from appliance.providers.watchers import look_for_ever, probe_for_ever
from appliance.telemetry.logging import get_logger

log = get_logger("providers")

_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_JSON: Final = (("content-type", "application/json"),)
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024


class Providers:
    """All groups. May be run again after it failed; a run begins without knowledge of any endpoint's health."""

    def __init__(self, settings: Sequence[GroupSettings], metrics: ProviderMetrics) -> None:
        self._settings = tuple(settings)
        self._metrics = metrics
        self._served: dict[str, _Served] = {}

    def __repr__(self) -> str:
        return f"<Providers {', '.join(each.name for each in self._settings)}>"

    async def run(
        self,
        listeners: Mapping[str, socket.socket],
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve each group on its listener, by name, until ``stopping`` is set and all have drained."""
        async with trio.open_nursery() as nursery:
            for settings in self._settings:
                served = self._served[settings.name] = _Served(settings, self._metrics, stopping)
                await nursery.start(served.run, listeners[settings.name])
            task_status.started()

    def health(self) -> Health:
        """Whether each group has somebody to ask."""
        return Health.OK if all(fact.healthy for fact in self.facts()) else Health.UNAVAILABLE

    def facts(self) -> list[HealthFact]:
        """A line for each group."""
        return [served.fact() for served in self._served.values()]

    def statistics(self) -> dict[str, object]:
        """For status: the groups by name."""
        return {"groups": {name: served.statistics() for name, served in self._served.items()}}


class _Served:
    """One group on its listener."""

    def __init__(self, settings: GroupSettings, metrics: ProviderMetrics, stopping: trio.Event) -> None:
        self._settings = settings
        self._metrics = metrics
        self._stopping = stopping
        links = [open_link(endpoint, settings) for endpoint in settings.endpoints]
        self._group = Group(settings, links, metrics)
        self._feeds = Feeds(self._group, metrics.heads_filled_in.labels(settings.name).inc)
        self._frontend = Frontend(self._group)
        self._clients: set[ServerWebsocket] = set()
        self._server: HttpServer | None = None

    async def run(self, listener: socket.socket, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._feeds.run)
            for name, link in self._group.links.items():
                nursery.start_soon(link.run, self._group)
                nursery.start_soon(probe_for_ever, self._group, name)
            nursery.start_soon(look_for_ever, self._group)
            nursery.start_soon(self._close_clients_when_stopping)
            self._server = self._create_server(listener)
            async with trio.open_nursery() as serving:
                await serving.start(self._server.run)
                task_status.started()
            nursery.cancel_scope.cancel()

    def _create_server(self, listener: socket.socket) -> HttpServer:
        return HttpServer(
            self._handle,
            listener,
            limits=HttpLimits(max_connections=self._settings.max_clients, max_body_bytes=_MAX_BODY_BYTES),
            stopping=self._stopping,
            drain_timeout_s=self._settings.drain_timeout_s,
            name=f"providers.{self._settings.name}",
            cancel_on_disconnect=True,  # who goes away has let its deadline pass
        )

    async def _close_clients_when_stopping(self) -> None:
        await self._stopping.wait()
        for client in list(self._clients):
            client.close(GOING_AWAY, "going away")

    async def _handle(self, request: HttpRequest) -> HttpResponse | Upgrade:
        if request.upgrade:
            return self._upgrade(request)
        if request.method == "GET" and request.path in {"/healthz", "/readyz", "/livez"}:
            return self._healthz(request.path)
        if request.method != "POST":
            text = b"JSON-RPC calls are POST requests, or messages on a websocket\n"
            return HttpResponse(405, text, (*_TEXT, ("allow", "POST")))
        return HttpResponse(200, await self._frontend.answer(request.body), _JSON)

    def _healthz(self, path: str) -> HttpResponse:
        fact = self.fact()
        status = Health.OK if fact.healthy or path != "/healthz" else Health.UNAVAILABLE
        return HttpResponse(int(status), f"{fact.reason}\n".encode(), _TEXT)

    def _upgrade(self, request: HttpRequest) -> HttpResponse | Upgrade:
        accepted = handshake.accept(request.headers)
        if isinstance(accepted, NotAWebsocket):
            version = ("sec-websocket-version", handshake.VERSION)
            return HttpResponse(accepted.status, f"{accepted.reason}\n".encode(), (*_TEXT, version))
        return Upgrade(accepted, self._converse)

    async def _converse(self, connection: Connection, data: bytes) -> None:
        limits = WebsocketLimits(max_message_bytes=_MAX_BODY_BYTES)
        websocket = ServerWebsocket(connection, data, limits)
        client = Client(websocket, self._frontend, self._feeds, self._metrics, self._settings.name)
        self._clients.add(websocket)
        gauge = self._metrics.clients.labels(self._settings.name)
        gauge.inc()
        try:
            if self._stopping.is_set():  # it came in while the others were being closed
                websocket.close(GOING_AWAY, "going away")
            await client.run()
        finally:
            gauge.dec()
            self._clients.discard(websocket)
            if websocket.close_reason is not None:
                code, reason = websocket.close_reason
                log.info("websocket client closed", group=self._settings.name, code=code, reason=reason)

    def fact(self) -> HealthFact:
        """Whether somebody of the group can be asked, and who or why not."""
        name = f"providers.{self._settings.name}"
        active = self._group.active
        if active is None:
            return HealthFact(name, healthy=False, reason=self._group.why_nobody())
        return HealthFact(name, healthy=True, reason=f"{active} is active")

    def statistics(self) -> dict[str, object]:
        """For status."""
        return {
            **self._group.statistics(),
            "clients": len(self._clients),
            "followed": self._feeds.statistics(),
            "server": self._server.statistics() if self._server else None,
        }
