"""rollup-boost's debug API, as its operators' scripts call it."""

import json
from typing import Any

import pytest

from appliance.domain.modes import ExecutionMode
from appliance.engine.debug_api import DebugApi
from appliance.engine.mode_switch import ModeSwitch
from appliance.net.http import Headers, HttpRequest, HttpResponse
from tests.engine import messages as m

JSON = {"content-type": "application/json"}


class Setup:
    def __init__(self) -> None:
        self.switch = ModeSwitch()
        self.api = DebugApi(self.switch)

    async def post(self, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> HttpResponse:
        request = HttpRequest(method, "/", Headers((JSON if headers is None else headers).items()), body, "10.0.0.9")
        return await self.api.handle(request)

    async def call(self, method: str, params: object, identifier: object = 1) -> Any:
        response = await self.post(m.request(method, params, identifier))
        assert response.status == 200
        return json.loads(response.body)


@pytest.mark.parametrize("mode", list(ExecutionMode))
async def test_the_mode_is_set_and_read(mode: ExecutionMode) -> None:
    setup = Setup()
    expected = {"jsonrpc": "2.0", "id": "x", "result": {"execution_mode": str(mode)}}
    assert await setup.call("debug_setExecutionMode", [{"execution_mode": str(mode)}], "x") == expected
    assert await setup.call("debug_getExecutionMode", [], "x") == expected
    assert setup.switch.status.who == "debug api 10.0.0.9"


async def test_the_mode_is_read_without_params() -> None:
    body = b'{"jsonrpc":"2.0","id":7,"method":"debug_getExecutionMode"}'
    answer = json.loads((await Setup().post(body, {"content-type": "application/json; charset=utf-8"})).body)
    assert answer == {"jsonrpc": "2.0", "id": 7, "result": {"execution_mode": "enabled"}}


@pytest.mark.parametrize(
    "params", [[], [{}], ["disabled"], [{"execution_mode": "off"}], [{"execution_mode": "dry-run"}], {}, None]
)
async def test_params_that_are_none_switch_nothing(params: object) -> None:
    setup = Setup()
    answer = await setup.call("debug_setExecutionMode", params)
    assert answer["error"]["code"] == -32602
    assert "enabled, dry_run, disabled" in answer["error"]["message"]
    assert setup.switch.status.source == "file"


async def test_other_methods_do_not_exist_here() -> None:
    answer = await Setup().call("eth_chainId", [])
    assert answer["error"] == {"code": -32601, "message": "the method eth_chainId does not exist"}


@pytest.mark.parametrize(("body", "code"), [(b"{", -32700), (b"[]", -32600), (b'{"id":1}', -32600)])
async def test_what_is_no_call_is_said_so(body: bytes, code: int) -> None:
    response = await Setup().post(body)
    assert json.loads(response.body)["error"]["code"] == code


@pytest.mark.parametrize("content_type", [{}, {"content-type": "text/plain"}])
async def test_a_web_page_cannot_throw_the_switch(content_type: dict[str, str]) -> None:
    setup = Setup()
    body = m.request("debug_setExecutionMode", [{"execution_mode": "disabled"}])
    assert (await setup.post(body, content_type)).status == 415
    assert setup.switch.status.mode is ExecutionMode.ENABLED


async def test_only_post_is_taken() -> None:
    assert (await Setup().post(b"", method="GET")).status == 405
