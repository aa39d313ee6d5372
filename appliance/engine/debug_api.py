"""rollup-boost's debug API: the execution mode's switch as JSON-RPC, on a listener of its own, without a token.

Source: rollup-boost 0.7.17, debug_api. `debug_setExecutionMode` takes `[{"execution_mode": "dry_run"}]`,
`debug_getExecutionMode` nothing; both answer `{"execution_mode": …}`. As there, only `application/json` is
taken: a web page in an operator's browser cannot send that to another origin without being asked first.
"""

import socket
from typing import Final

import msgspec
import trio

from appliance.domain.modes import ExecutionMode
from appliance.engine.mode_switch import ModeSwitch
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer
from appliance.wire.jsonrpc import (
    INVALID_PARAMS,
    MALFORMED,
    METHOD_NOT_FOUND,
    Request,
    RequestError,
    decode_request,
    encode_error,
    encode_result,
)

_LIMITS: Final = HttpLimits(max_connections=16, max_body_bytes=64 * 1024)
_DRAIN_S: Final = 1.0


class _Wanted(msgspec.Struct):
    execution_mode: ExecutionMode


_params_decoder = msgspec.json.Decoder(tuple[_Wanted])


class DebugApi:
    """Serves the switch to `debug_*` calls."""

    def __init__(self, switch: ModeSwitch) -> None:
        self._switch = switch

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on ``listener`` until ``stopping`` is set; ``started`` gets the server."""
        server = HttpServer(
            self.handle, listener, limits=_LIMITS, stopping=stopping, drain_timeout_s=_DRAIN_S, name="debug"
        )
        await server.run(task_status=task_status)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request."""
        if request.method != "POST":
            return _text(405, "JSON-RPC calls are POST requests", ("allow", "POST"))
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            return _text(415, "expected the content type application/json")
        try:
            call = decode_request(request.body)
        except RequestError as error:
            return _json(encode_error(error.identifier, error.code, str(error)))
        return _json(await self._answer(call, request.peer))

    async def _answer(self, call: Request, peer: str) -> bytes:
        identifier = bytes(call.id)
        match call.method:
            case "debug_getExecutionMode":
                return _mode(identifier, self._switch.status.mode)
            case "debug_setExecutionMode":
                return await self._set(identifier, bytes(call.params), peer)
            case _:
                return encode_error(identifier, METHOD_NOT_FOUND, f"the method {call.method} does not exist")

    async def _set(self, identifier: bytes, params: bytes, peer: str) -> bytes:
        try:
            (wanted,) = _params_decoder.decode(params)
        except MALFORMED as error:
            modes = ", ".join(ExecutionMode)
            return encode_error(identifier, INVALID_PARAMS, f'expected [{{"execution_mode": one of {modes}}}]: {error}')
        status = await self._switch.throw(wanted.execution_mode, f"debug api {peer}")
        return _mode(identifier, status.mode)


def _mode(identifier: bytes, mode: ExecutionMode) -> bytes:
    return encode_result(identifier, msgspec.json.encode({"execution_mode": mode}))


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(200, body, (("content-type", "application/json"),))


def _text(status: int, text: str, *headers: tuple[str, str]) -> HttpResponse:
    return HttpResponse(status, f"{text}\n".encode(), (("content-type", "text/plain; charset=utf-8"), *headers))
