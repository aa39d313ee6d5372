"""Endpoints that answer with well-formed nonsense: it counts against them, and the plane runs on."""

from typing import Any

import msgspec
import pytest

from appliance.net.http import HttpResponse
from appliance.wire.jsonrpc import Request, encode_result
from tests.providers.chain import encoded
from tests.providers.endpoint import Answer
from tests.providers.rig import rig
from tests.support.eventually import eventually


def says(method: str, result: object) -> Answer:
    """An endpoint that answers this one method with ``result``."""

    def answer(request: Request) -> bytes | HttpResponse | None:
        return encode_result(bytes(request.id), encoded(result)) if request.method == method else None

    return answer


@pytest.mark.parametrize("field", ["number", "timestamp"])
async def test_a_head_with_a_number_without_end_is_a_failed_probe(field: str) -> None:
    async with rig(a="http", b="http") as r:
        await r.until_known()
        r.endpoints["a"].answer = says("eth_getBlockByNumber", {**r.chain.head.block(), field: "0x" + "f" * 400})
        await r.until_active("b")
        assert await r.call("web3_sha3") == "b web3_sha3"


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("eth_getTransactionByHash", {"from": "0xaa", "nonce": "zz", "blockNumber": None}),
        ("eth_getTransactionCount", None),
        ("eth_getTransactionCount", "zz"),
        ("eth_getTransactionCount", {}),
    ],
)
async def test_nonsense_about_a_transaction_says_nothing_of_it(method: str, result: object) -> None:
    async with rig(a="http", b="http") as r:
        endpoint = r.endpoints["a"]
        sent = await r.call("eth_sendRawTransaction", "0x02")
        await eventually(lambda: _transactions(r.providers.statistics())["seen_pending"] == 1)
        endpoint.answer = says(method, result)
        if method == "eth_getTransactionCount":
            del endpoint.mempool[sent]
        asked = len(endpoint.methods(method))
        await eventually(lambda: len(endpoint.methods(method)) >= asked + 3)
        assert _transactions(r.providers.statistics())["dropped"] == 0
        assert await r.call("web3_sha3") == "a web3_sha3"


def _transactions(statistics: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statistics["groups"]["l1"]["transactions"]
    return found


async def test_logs_that_are_no_objects_are_none_and_are_asked_for_again() -> None:
    async with rig(a="http") as r, r.websocket() as client:
        await client.call("eth_subscribe", "logs", {})
        r.endpoints["a"].answer = says("eth_getLogs", [1])
        r.chain.mine("seen")
        await eventually(lambda: "eth_getLogs" in r.endpoints["a"].methods())
        r.endpoints["a"].answer = lambda _: None
        assert (await client.notification())["data"] == "seen"


async def test_a_head_that_is_no_utf_8_reaches_subscribers_with_that_replaced() -> None:
    async with rig(a="http") as r, r.websocket() as client:
        await client.call("eth_subscribe", "newHeads")

        def answer(request: Request) -> bytes | None:
            if request.method != "eth_getBlockByNumber":
                return None
            block = {**r.chain.head.block(), "extraData": "0x??"}
            return encode_result(bytes(request.id), msgspec.json.encode(block).replace(b"??", b"\xff\xfe"))

        r.endpoints["a"].answer = answer
        head = r.chain.mine()
        found = await client.notification()
        assert (found["hash"], found["extraData"]) == (head.hash, "0x\ufffd\ufffd")


async def test_a_call_that_is_no_utf_8_is_a_parse_error_whatever_the_endpoint_is() -> None:
    for scheme in ("http", "ws"):
        async with rig(a=scheme) as r:
            answer = await r.post(b'{"jsonrpc":"2.0","id":7,"method":"eth_call","params":["\xff"]}')
            decoded = msgspec.json.decode(answer.body)
            assert (answer.status, decoded["id"], decoded["error"]["code"]) == (200, 7, -32700)
