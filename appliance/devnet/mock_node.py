"""A JSON-RPC node that knows two answers, for trying out the load balancer (`--mock-node`, as prio-load-balancer's)."""

from typing import Final

import msgspec
import trio

from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer, open_listener, serve_http
from appliance.wire.jsonrpc import MALFORMED

MOCK_NODE_ADDRESS: Final = "127.0.0.1:8095"

_ANSWERS: Final = {"net_version": "1", "eth_callBundle": "cool"}
_JSON: Final = Headers({"content-type": "application/json"})


class _Call(msgspec.Struct):
    method: str
    id: msgspec.Raw = msgspec.Raw(b"null")


async def run_mock_node(
    address: str = MOCK_NODE_ADDRESS, *, task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; ``started`` gets the server. ConfigError when the address is in use."""
    await serve_http(
        handle,
        open_listener(address),
        limits=HttpLimits(),
        stopping=trio.Event(),
        drain_timeout_s=0.0,
        name="mock node",
        task_status=task_status,
    )


async def handle(request: HttpRequest) -> HttpResponse:
    """Answer one call; the id comes back as it was."""
    try:
        call = msgspec.json.decode(request.body, type=_Call)
    except MALFORMED as error:
        return _answer(
            msgspec.Raw(b"-1"), error={"code": -32603, "message": f"failed to parse JSON RPC request: {error}"}
        )
    if call.method not in _ANSWERS:
        message = f"no RPC method handler implemented for {call.method}"
        return _answer(call.id, error={"code": -32603, "message": message})
    return _answer(call.id, result=_ANSWERS[call.method])


def _answer(request_id: msgspec.Raw, **what: object) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode({"id": request_id, **what, "jsonrpc": "2.0"}) + b"\n", _JSON)
