"""Calls and notifications on one connection, whose other end is the test."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.domain.errors import DecodeError
from appliance.net.errors import BadResponse, ConnectionBroken
from appliance.net.websocket_client import Message
from appliance.providers.websocket_rpc import NotSent, WebsocketRpc
from appliance.wire.jsonrpc import Response


class Wire:
    """What was sent, and what comes."""

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []
        self.broken = False
        self.rpc = WebsocketRpc(self.send, "ws://host")
        self._send, self._receive = trio.open_memory_channel[bytes](100)

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise ConnectionBroken("closed")
        self.sent.append(msgspec.json.decode(text))

    async def say(self, *messages: object) -> None:
        for message in messages:
            self._send.send_nowait(message if isinstance(message, bytes) else msgspec.json.encode(message))
        await wait_all_tasks_blocked()

    async def run(self) -> None:
        async def messages() -> AsyncIterator[Message]:
            async for each in self._receive:
                yield each, False

        await self.rpc.read(messages())


@pytest.fixture
async def wire(nursery: trio.Nursery) -> Wire:
    made = Wire()
    nursery.start_soon(made.run)
    return made


def notification(subscription: str, result: object) -> dict[str, object]:
    return {"method": "eth_subscription", "params": {"subscription": subscription, "result": result}}


async def test_answers_find_their_calls_in_any_order(wire: Wire, nursery: trio.Nursery) -> None:
    answers: dict[str, Response] = {}

    async def call(method: str) -> None:
        answers[method] = await wire.rpc.call(method, b"[1]")

    for method in ("a", "b"):
        nursery.start_soon(call, method)
        await wait_all_tasks_blocked()
    assert wire.sent[0] == {"jsonrpc": "2.0", "id": 1, "method": "a", "params": [1]}
    error = {"code": 3, "message": "execution reverted"}
    await wire.say({"id": 2, "result": "B"}, {"id": "strange", "result": 1}, {"id": 99, "result": 1})
    await wire.say({"id": 1, "error": error})
    assert bytes(answers["b"].result) == b'"B"'
    assert msgspec.json.decode(answers["a"].error) == error


async def test_notifications_right_behind_the_answer_find_their_sink(wire: Wire, nursery: trio.Nursery) -> None:
    got: list[bytes] = []
    ids: list[str] = []

    async def subscribe() -> None:
        ids.append(await wire.rpc.subscribe(b'["newHeads"]', got.append))

    nursery.start_soon(subscribe)
    await wait_all_tasks_blocked()
    await wire.say({"id": 1, "result": "0xs"}, notification("0xs", 1), notification("0xother", 2))
    await wire.say({"method": "eth_subscription", "params": 7}, notification("0xs", {"a": 3}))
    assert (ids, got) == (["0xs"], [b"1", b'{"a":3}'])
    nursery.start_soon(wire.rpc.unsubscribe, "0xs")
    await wait_all_tasks_blocked()
    await wire.say(notification("0xs", 4), {"id": 2, "result": True})
    assert len(got) == 2
    assert wire.sent[-1]["params"] == ["0xs"]


async def test_a_subscription_that_is_refused_is_told(wire: Wire, nursery: trio.Nursery) -> None:
    async def refuse() -> None:
        await wait_all_tasks_blocked()
        await wire.say({"id": 1, "error": {"code": -32601, "message": "no"}})

    nursery.start_soon(refuse)
    with pytest.raises(DecodeError, match="took no subscription"):
        await wire.rpc.subscribe(b"[]", lambda _result: None)


async def test_the_connections_end_ends_the_calls(wire: Wire, nursery: trio.Nursery) -> None:
    async def close() -> None:
        await wait_all_tasks_blocked()
        wire.rpc.close()

    nursery.start_soon(close)
    with pytest.raises(ConnectionBroken, match="ended before the answer"):
        await wire.rpc.call("a", b"[]")


async def test_what_could_not_be_sent_did_not_leave(wire: Wire) -> None:
    wire.broken = True
    with pytest.raises(NotSent):
        await wire.rpc.call("a", b"[]")


async def test_who_gives_up_leaves_nothing_behind(wire: Wire) -> None:
    with trio.move_on_after(0.01):
        await wire.rpc.call("a", b"[]")
    assert repr(wire.rpc) == "<WebsocketRpc ws://host, 0 calls, 0 subscriptions>"


async def test_what_is_no_json_rpc_ends_the_connection() -> None:
    wire = Wire()
    with pytest.raises(BadResponse, match="no JSON-RPC"):
        wire.rpc._take(b"<html>")
