"""Bytes to bytes, with a group that says what the test wants."""

from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from appliance.domain.errors import UnavailableError
from appliance.providers.frontend import AT_A_TIME, MAX_BATCH, Frontend
from appliance.providers.group import Group, NobodyAnswered
from appliance.providers.subscriptions import NewHeads, Subject
from appliance.wire.jsonrpc import Response


class FakeGroup:
    """Answers with the method's name; ``slow_s`` by method."""

    def __init__(self) -> None:
        self.running = self.most_running = 0
        self.order: list[str] = []
        self.slow_s: dict[str, float] = {}

    async def call(self, method: str, params: bytes) -> Response:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await trio.sleep(self.slow_s.get(method, 0))
        self.running -= 1
        self.order.append(method)
        if method == "down":
            raise NobodyAnswered("all providers of l1 unhealthy: main (down)")
        if method == "wrong":
            return Response(error=msgspec.Raw(b'{"code":3,"message":"execution reverted","data":"0x08"}'))
        return Response(result=msgspec.Raw(msgspec.json.encode([method, params.decode()])))


class FakeSubscriber:
    def __init__(self) -> None:
        self.subjects: list[Subject] = []

    async def subscribe(self, subject: Subject) -> str:
        if len(self.subjects) == 1:
            raise UnavailableError("at most 1")
        self.subjects.append(subject)
        return "0x1"

    def unsubscribe(self, identifier: str) -> bool:
        return identifier == "0x1"


@pytest.fixture
def group() -> FakeGroup:
    return FakeGroup()


@pytest.fixture
def frontend(group: FakeGroup) -> Frontend:
    return Frontend(cast("Group", group))


def call(method: str, identifier: object = 1, params: object = ()) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}


async def ask(frontend: Frontend, message: object, subscriber: FakeSubscriber | None = None) -> Any:
    answer = await frontend.answer(msgspec.json.encode(message), subscriber)
    return msgspec.json.decode(answer) if answer else None


@pytest.mark.parametrize("identifier", [b"1", b'"a"', b"null", b"-1.5e3", b"12345678901234567890123"])
async def test_ids_come_back_as_they_came(frontend: Frontend, identifier: bytes) -> None:
    answer = await frontend.answer(b'{"jsonrpc":"2.0","id":%b,"method":"x","params":[1]}' % identifier)
    assert answer == b'{"jsonrpc":"2.0","id":%b,"result":["x","[1]"]}' % identifier


async def test_an_endpoints_error_passes_whole(frontend: Frontend) -> None:
    assert await ask(frontend, call("wrong")) == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": 3, "message": "execution reverted", "data": "0x08"},
    }


async def test_nobody_to_ask_is_an_error_with_the_reasons(frontend: Frontend) -> None:
    answer = await ask(frontend, call("down"))
    assert answer["error"] == {"code": -32002, "message": "all providers of l1 unhealthy: main (down)"}


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", -32700), (b"1", -32600), (b"[]", -32600), (b'{"id":1}', -32600), (b"", -32700)]
)
async def test_what_is_no_call_is_told(frontend: Frontend, body: bytes, code: int) -> None:
    assert msgspec.json.decode(await frontend.answer(body))["error"]["code"] == code


async def test_a_notification_is_called_and_not_answered(frontend: Frontend, group: FakeGroup) -> None:
    assert await frontend.answer(b'{"jsonrpc":"2.0","method":"x"}') == b""
    assert await frontend.answer(b'{"jsonrpc":"2.0","method":"down"}') == b""
    assert group.order == ["x", "down"]


async def test_a_batch_of_reads_runs_side_by_side_and_is_answered_in_order(
    frontend: Frontend, group: FakeGroup, autojump_clock: MockClock
) -> None:
    group.slow_s = {f"eth_get{number}": 1 - number / 100 for number in range(40)}
    answers = await ask(frontend, [call(f"eth_get{number}", number) for number in range(40)])
    assert [answer["id"] for answer in answers] == list(range(40))
    assert [answer["result"][0] for answer in answers] == [f"eth_get{number}" for number in range(40)]
    assert group.most_running == AT_A_TIME


async def test_a_batch_that_writes_runs_in_order(
    frontend: Frontend, group: FakeGroup, autojump_clock: MockClock
) -> None:
    group.slow_s = {"eth_sendRawTransaction": 1}
    methods = ["eth_sendRawTransaction", "eth_call", "eth_sendRawTransaction", "web3_sha3"]
    await ask(frontend, [call(method) for method in methods])
    assert group.order == methods
    assert group.most_running == 1


async def test_in_a_batch_each_is_answered_for_itself(frontend: Frontend) -> None:
    notification = {"jsonrpc": "2.0", "method": "x"}
    answers = await ask(frontend, [call("down", 1), 7, notification, call("x", 2)])
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32002, -32600, None]


async def test_a_batch_is_bounded(frontend: Frontend) -> None:
    answer = await ask(frontend, [call("x")] * (MAX_BATCH + 1))
    assert answer["error"]["code"] == -32600


async def test_subscriptions_need_a_websocket(frontend: Frontend) -> None:
    for method in ("eth_subscribe", "eth_unsubscribe"):
        error = (await ask(frontend, call(method, params=["newHeads"])))["error"]
        assert error["code"] == -32601
        assert "connect to ws://" in error["message"]


async def test_a_subscription_and_its_end(frontend: Frontend) -> None:
    subscriber = FakeSubscriber()
    assert (await ask(frontend, call("eth_subscribe", params=["newHeads"]), subscriber))["result"] == "0x1"
    assert subscriber.subjects == [NewHeads()]
    assert (await ask(frontend, call("eth_unsubscribe", params=["0x1"]), subscriber))["result"] is True


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_subscribe", ["syncing"], -32602),
        ("eth_unsubscribe", [], -32602),
        ("eth_unsubscribe", ["0x2"], -32602),
    ],
)
async def test_a_wrong_subscription_is_told(frontend: Frontend, method: str, params: list[str], code: int) -> None:
    assert (await ask(frontend, call(method, params=params), FakeSubscriber()))["error"]["code"] == code


async def test_a_subscription_that_cannot_be_made_is_told(frontend: Frontend) -> None:
    subscriber = FakeSubscriber()
    await ask(frontend, call("eth_subscribe", params=["newHeads"]), subscriber)
    answer = await ask(frontend, call("eth_subscribe", params=["newHeads"]), subscriber)
    assert answer["error"] == {"code": -32002, "message": "at most 1"}
