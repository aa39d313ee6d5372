"""The admin plane's routes, on Quart-Trio: here routing and readability count, not requests per second."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quart import Response, request
from quart_trio import QuartTrio

from appliance.admin.lb_routes import LbSources, add_lb_routes
from appliance.domain.health import Health, HealthFact
from appliance.domain.modes import ExecutionMode
from appliance.wire.jsonrpc import MALFORMED

StatusSource = Callable[[], dict[str, object]]
HealthSource = Callable[[], tuple[Health, list[HealthFact]]]


@dataclass(frozen=True, slots=True)
class EngineSources:
    """What the engine shows and lets be switched; all values are JSON objects.

    ``throw`` takes the mode and who throws it. ``payloads`` takes the greatest number of decisions wanted,
    ``payload`` a payload id or block hash.
    """

    mode: Callable[[], dict[str, object]]
    throw: Callable[[ExecutionMode, str], Awaitable[dict[str, object]]]
    payloads: Callable[[int], list[dict[str, object]]]
    payload: Callable[[str], dict[str, object] | None]


@dataclass(frozen=True, slots=True)
class AdminSources:
    """What the routes render; the supervisor passes it."""

    registry: CollectorRegistry
    status: StatusSource
    health: HealthSource
    engine: EngineSources | None = None
    lb: LbSources | None = None


class _Throw(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /api/v1/mode. ``via`` and ``user`` are for the audit."""

    execution_mode: ExecutionMode
    via: Literal["admin api", "cli"] = "admin api"
    user: Annotated[str, msgspec.Meta(pattern=r"^[\w.@\\-]{0,64}$")] = ""

    def who(self, peer: str | None) -> str:
        """As the audit names it."""
        return f"{self.via} {peer or 'unknown'}" + (f" ({self.user})" if self.user else "")


def create_app(sources: AdminSources, token: str | None = None) -> QuartTrio:
    """The ASGI application. With ``token``, everything under `/api/` asks for it as a bearer token."""
    app = QuartTrio(__name__, static_folder=None)

    @app.before_request
    async def authorize() -> Response | None:
        if token is None or not request.path.startswith("/api/") or _bearer_is(token):
            return None
        return _json({"message": "missing or wrong bearer token"}, status=401)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(sources.registry), content_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    async def healthz() -> Response:
        health, facts = sources.health()
        return _json({"status": health.name.lower(), "facts": facts}, status=health.value)

    @app.get("/api/v1/status")
    async def status() -> Response:
        return _json(sources.status())

    if sources.engine is not None:
        _add_engine_routes(app, sources.engine)
    if sources.lb is not None:
        add_lb_routes(app, sources.lb)

    @app.errorhandler(404)
    async def not_found(_: Exception) -> Response:
        routes = ", ".join(sorted(str(rule) for rule in app.url_map.iter_rules()))
        return _json({"message": f"no such path; there are {routes}"}, status=404)

    return app


def _add_engine_routes(app: QuartTrio, engine: EngineSources) -> None:
    @app.get("/api/v1/mode")
    async def mode() -> Response:
        return _json(engine.mode())

    @app.put("/api/v1/mode")
    async def throw() -> Response:
        try:
            wanted = msgspec.json.decode(await request.get_data(), type=_Throw)
        except MALFORMED as error:
            modes = ", ".join(ExecutionMode)
            return _json({"message": f'expected {{"execution_mode": one of {modes}}}: {error}'}, status=400)
        return _json(await engine.throw(wanted.execution_mode, wanted.who(request.remote_addr)))

    @app.get("/api/v1/payloads")
    async def payloads() -> Response:
        limit = request.args.get("limit", "50")
        if not limit.isdecimal():
            return _json({"message": "limit: expected a whole number"}, status=400)
        return _json({"payloads": engine.payloads(int(limit[:9]))})

    @app.get("/api/v1/payloads/<name>")
    async def payload(name: str) -> Response:
        found = engine.payload(name)
        if found is None:
            return _json({"message": f"no decision is kept about {name[:80]}"}, status=404)
        return _json(found)


def _bearer_is(token: str) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type="application/json")
