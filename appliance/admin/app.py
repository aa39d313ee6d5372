"""The admin plane's routes, on Quart-Trio: here routing and readability count, not requests per second."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quart import Response, request
from quart_trio import QuartTrio

from appliance.domain.health import Health, HealthFact

StatusSource = Callable[[], dict[str, object]]
HealthSource = Callable[[], tuple[Health, list[HealthFact]]]


@dataclass(frozen=True, slots=True)
class AdminSources:
    """What the routes render; the supervisor passes it."""

    registry: CollectorRegistry
    status: StatusSource
    health: HealthSource


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

    @app.errorhandler(404)
    async def not_found(_: Exception) -> Response:
        routes = "/metrics, /healthz, /api/v1/status"
        return _json({"message": f"no such path; there are {routes}"}, status=404)

    return app


def _bearer_is(token: str) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type="application/json")
