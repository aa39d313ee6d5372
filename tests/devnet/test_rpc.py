import json
from typing import Any

import pytest

from appliance.devnet import rpc
from appliance.devnet.messages import RpcError


async def echo(method: str, params: list[Any]) -> Any:
    if method == "fail":
        raise RpcError(-32000, "as asked")
    return [method, *params]


async def answer(body: bytes) -> Any:
    return json.loads(await rpc.answer(body, echo))


async def test_single_call_keeps_its_id() -> None:
    for identifier in (1, "a", None, 2**60):
        body = json.dumps({"jsonrpc": "2.0", "id": identifier, "method": "m", "params": [1]}).encode()
        assert await answer(body) == {"jsonrpc": "2.0", "id": identifier, "result": ["m", 1]}


async def test_batch_is_answered_in_order() -> None:
    body = b'[{"id":1,"method":"a"},{"id":2,"method":"fail"},{"id":3,"method":"c"}]'
    replies = await answer(body)
    assert [reply["id"] for reply in replies] == [1, 2, 3]
    assert replies[1]["error"] == {"code": -32000, "message": "as asked"}
    assert replies[2]["result"] == ["c"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"\xff", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"id":1}', -32600),
        (b'{"id":1,"method":5}', -32600),
        (b'{"id":1,"method":"m","params":{"a":1}}', -32600),
    ],
)
async def test_what_is_no_call_is_an_error_answer(body: bytes, code: int) -> None:
    assert (await answer(body))["error"]["code"] == code


async def test_call_and_answer_fit_together() -> None:
    body = rpc.encode_call("m", [1, "two"])
    assert rpc.decode_answer(await rpc.answer(body, echo)) == ["m", 1, "two"]
    with pytest.raises(RpcError, match=r"as asked \(-32000\)") as caught:
        rpc.decode_answer(await rpc.answer(rpc.encode_call("fail", []), echo))
    assert caught.value.code == -32000


def test_null_is_a_result() -> None:
    assert rpc.decode_answer(b'{"jsonrpc":"2.0","id":1,"result":null}') is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error":"text"}', b'{"error":{"code":"x"}}'])
def test_malformed_answer_is_an_rpc_error(body: bytes) -> None:
    with pytest.raises(RpcError):
        rpc.decode_answer(body)
