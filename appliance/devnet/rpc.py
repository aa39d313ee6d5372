"""JSON-RPC 2.0 over a body of bytes: single calls and batches, errors with the codes of the specification."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from appliance.devnet.messages import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError

Call = Callable[[str, list[Any]], Awaitable[Any]]


async def answer(body: bytes, call: Call) -> bytes:
    """The answer to a request or batch; whatever `call` returns or raises is in it."""
    try:
        request = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        return msgspec.json.encode(_error(None, PARSE_ERROR, f"parse error: {error}"))
    if not isinstance(request, list):
        return msgspec.json.encode(await _answer_one(request, call))
    if not request:
        return msgspec.json.encode(_error(None, INVALID_REQUEST, "empty batch"))
    return msgspec.json.encode([await _answer_one(element, call) for element in request])


async def _answer_one(request: Any, call: Call) -> dict[str, Any]:
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return _error(None, INVALID_REQUEST, "invalid request")
    identifier = request.get("id")
    params = request.get("params", [])
    if not isinstance(params, list):
        return _error(identifier, INVALID_REQUEST, "params must be a list")
    try:
        return {"jsonrpc": "2.0", "id": identifier, "result": await call(request["method"], params)}
    except RpcError as error:
        return _error(identifier, error.code, error.message)


def _error(identifier: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": message}}


def decode_answer(body: bytes) -> Any:
    """The result in the answer to a single call; RpcError when it is an error or no answer at all."""
    try:
        reply = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise RpcError(PARSE_ERROR, f"answer is not JSON: {error}") from error
    if not isinstance(reply, dict) or ("result" not in reply and "error" not in reply):
        raise RpcError(INTERNAL_ERROR, "answer is no JSON-RPC response")
    if reply.get("error") is not None:
        raise _remote_error(reply["error"])
    return reply["result"]


def _remote_error(error: Any) -> RpcError:
    if not isinstance(error, dict) or not isinstance(error.get("code"), int):
        return RpcError(INTERNAL_ERROR, f"malformed error: {error!r}")
    return RpcError(error["code"], str(error.get("message", "")))


def encode_call(method: str, params: list[Any]) -> bytes:
    """A request body."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
