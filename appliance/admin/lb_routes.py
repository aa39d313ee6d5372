"""`/api/v1/lb/nodes`: the load balancer's nodes, each with its state and why, added and removed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from appliance.domain.errors import ApplianceError
from appliance.wire.jsonrpc import MALFORMED

_PATH = "/api/v1/lb/nodes"


@dataclass(frozen=True, slots=True)
class LbSources:
    """What the load balancer shows and lets be changed; values are JSON objects.

    ``add`` takes the URI, the workers (None: the default) and who adds it; ``remove`` the URI and who. Both raise
    ApplianceError with the reason.
    """

    nodes: Callable[[], dict[str, object]]
    add: Callable[[str, int | None, str], Awaitable[dict[str, object]]]
    remove: Callable[[str, str], Awaitable[None]]


class _Node(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST and DELETE. ``via`` and ``user`` are for the log."""

    uri: Annotated[str, msgspec.Meta(max_length=16_384)]
    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    via: Literal["admin api", "cli"] = "admin api"
    user: Annotated[str, msgspec.Meta(pattern=r"^[\w.@\\-]{0,64}$")] = ""

    def who(self, peer: str | None) -> str:
        """As the log and state.db name it."""
        return f"{self.via} {peer or 'unknown'}" + (f" ({self.user})" if self.user else "")


def add_lb_routes(app: QuartTrio, lb: LbSources) -> None:
    """Register them; the app's authorization covers `/api/`."""

    @app.get(_PATH)
    async def nodes() -> Response:
        return _json(lb.nodes())

    @app.post(_PATH)
    async def add() -> Response:
        return await _change(_add)

    @app.delete(_PATH)
    async def remove() -> Response:
        return await _change(_remove)

    async def _add(node: _Node) -> dict[str, object]:
        return await lb.add(node.uri, node.workers, node.who(request.remote_addr))

    async def _remove(node: _Node) -> dict[str, object]:
        await lb.remove(node.uri, node.who(request.remote_addr))
        return lb.nodes()


async def _change(change: Callable[[_Node], Awaitable[dict[str, object]]]) -> Response:
    try:
        node = msgspec.json.decode(await request.get_data(), type=_Node)
    except MALFORMED as error:
        return _json({"message": f'expected {{"uri": "http://host:port", "workers": 8}}: {error}'}, status=400)
    try:
        return _json(await change(node))
    except ApplianceError as error:
        return _json({"message": str(error)}, status=400)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type="application/json")
