import json
from typing import Any

import pytest
import trio

from appliance.devnet.mock_node import handle, run_mock_node
from appliance.net.http import HttpRequest
from appliance.net.http_client import HttpClient


async def call(body: bytes) -> dict[str, Any]:
    answer = await handle(HttpRequest("POST", "/", {}, body))  # type: ignore[arg-type]  # it looks at no header
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.mark.parametrize(("method", "result"), [("net_version", "1"), ("eth_callBundle", "cool")])
@pytest.mark.parametrize("request_id", [1, "x", None])
async def test_it_knows_two_answers_and_sends_ids_back_as_they_came(
    method: str, result: str, request_id: object
) -> None:
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": [], "id": request_id}).encode()
    assert await call(body) == {"id": request_id, "result": result, "jsonrpc": "2.0"}


async def test_anything_else_is_an_error_of_json_rpc() -> None:
    answer = await call(b'{"method": "eth_sendBundle", "id": 7}')
    assert answer["id"] == 7
    assert answer["error"] == {"code": -32603, "message": "no RPC method handler implemented for eth_sendBundle"}
    assert (await call(b"{"))["error"]["code"] == -32603


async def test_it_serves() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(run_mock_node, "127.0.0.1:0")
        async with HttpClient(f"http://{server.address}") as client:
            answer = await client.request("POST", "/", (), b'{"method": "net_version", "id": 1}', timeout_s=60)
        assert answer.body == b'{"id":1,"result":"1","jsonrpc":"2.0"}\n'
        nursery.cancel_scope.cancel()
