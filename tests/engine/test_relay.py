"""A large answer of the execution client that is the reply whatever it says reaches op-node as it comes."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.engine.events import JSON
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import NEVER_S, SOON_S, Behaviour, FakeUpstream, RecordingStream, answers, gated, hangs
from tests.engine.rig import EL_ID, SECRET, Rig, block_of, rig

KIND = Headers({"content-type": JSON})
LARGE = m.Block("large", padding=400_000)
HALF = 300_000


def in_two_parts(body: bytes, gate: trio.Event) -> Behaviour:
    """Half of it, and the rest once the gate is open."""

    async def behave(upstream: FakeUpstream, request: HttpRequest) -> HttpResponse:
        assert request.early is not None
        request.early.offer(200, KIND, len(body), memoryview(body)[:HALF])
        await gate.wait()
        return HttpResponse(200, body, KIND)

    return behave


def breaks_off(body: bytes) -> Behaviour:
    """Half of it, and then the connection is closed."""

    async def behave(upstream: FakeUpstream, request: HttpRequest) -> HttpResponse:
        assert request.early is not None
        request.early.offer(200, KIND, len(body), memoryview(body)[:HALF])
        return HttpResponse(500, b"")

    return behave


class OpNode:
    """One raw connection, to see what is there when."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._read = b""

    async def send(self, body: bytes) -> None:
        token = jwt.sign(SECRET, time.time())
        head = f"POST / HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)

    async def receive(self, size: int) -> bytes:
        """So many bytes of an answer's body, its head read before; what there is when the connection ends."""
        while len(self._body()) < size and (data := await self._stream.receive_some(1 << 20)):
            self._read += data
        return self._body()[:size]

    def _body(self) -> bytes:
        return self._read.partition(b"\r\n\r\n")[2]

    async def whole(self) -> bytes:
        """The answer's body by its Content-Length; the next one can be asked for then."""
        while b"\r\n\r\n" not in self._read:
            self._read += await self._stream.receive_some()
        head, _, _ = self._read.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self.receive(size)
        self._read = self._body()[size:]
        return body


@asynccontextmanager
async def connected(it: Rig) -> AsyncIterator[OpNode]:
    host, port = it.client.origin.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        with trio.fail_after(SOON_S):
            yield OpNode(stream)


ORDERS = {
    "a build of the EL alone": m.build(no_tx_pool=True),
    "a payload id that nobody has given": None,
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("names", [(), ("alpha",)])
async def test_the_els_block_goes_on_before_it_is_whole(order: bytes | None, names: tuple[str, ...]) -> None:
    gate, stream = trio.Event(), RecordingStream()
    answer = LARGE.answer("q")
    async with rig(*names, stream=stream) as it, connected(it) as op_node:
        it.el.behaviours["engine_getPayloadV4"] = in_two_parts(answer, gate)
        if order is not None:
            await it.ask(order)
        await op_node.send(m.get_payload(EL_ID, identifier="q"))
        assert await op_node.receive(HALF) == answer[:HALF]
        assert "payload_returned" not in stream.names()
        gate.set()
        assert await op_node.whole() == answer
        it.el.behaviours["engine_getPayloadV4"] = answers(m.Block("small").answer("q"))
        await op_node.send(m.forkchoice(LARGE.hash))
        assert json.loads(await op_node.whole())["result"]["payloadStatus"]["status"] == "VALID"
        statistics = it.engine.statistics()["blocks"]
        assert isinstance(statistics, dict)
        assert statistics["last"]["hash"] == LARGE.hash


async def test_a_block_that_a_builder_may_better_is_not_begun() -> None:
    gate, stream = trio.Event(), RecordingStream()
    async with rig("alpha", stream=stream) as it, connected(it) as op_node:
        it.el.behaviours["engine_getPayloadV4"] = in_two_parts(LARGE.answer("q"), gate)
        await it.order_build()
        await it.joined(stream, "alpha")
        await op_node.send(m.get_payload(EL_ID, identifier="q"))
        answer = json.loads(await op_node.whole())
        assert answer["result"]["executionPayload"]["builtBy"] == "alpha's"
        gate.set()


async def test_a_builder_that_joins_late_is_not_kept_waiting_by_an_el_that_hangs() -> None:
    """When getPayload comes only the EL can be asked, but it need not be the EL that brings the block."""
    gate, stream = trio.Event(), RecordingStream()
    async with rig("alpha", stream=stream, timeout_s=NEVER_S) as it:
        alpha = it.builders["alpha"]
        alpha.behaviours["engine_forkchoiceUpdatedV3"] = gated(gate, alpha.behaviours["engine_forkchoiceUpdatedV3"])
        it.el.behaviours["engine_getPayloadV4"] = hangs
        await it.order_build()
        answers_to: list[bytes] = []

        async def ask() -> None:
            answers_to.append(await it.ask(m.get_payload(EL_ID, identifier="q")))

        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await it.el.wait_for("engine_getPayloadV4")
                gate.set()
        assert answers_to == [block_of("alpha").answer("q")]


async def test_flashblocks_that_are_valid_already_are_answered_without_waiting_for_the_el() -> None:
    stream = RecordingStream()
    stream.assembled = block_of("alpha").assembled("alpha", validated=True)
    async with rig("alpha", stream=stream, timeout_s=NEVER_S) as it:
        it.builders["alpha"].behaviours["engine_forkchoiceUpdatedV3"] = answers(m.error(-38003, "no"))
        it.el.behaviours["engine_getPayloadV4"] = hangs
        await it.order_build()
        with trio.fail_after(SOON_S):
            answer = json.loads(await it.ask(m.get_payload(EL_ID, identifier="q")))
        assert answer["result"]["executionPayload"]["blockHash"] == block_of("alpha").hash


async def test_an_el_that_breaks_off_in_the_middle_leaves_op_node_without_an_answer_and_is_asked_again() -> None:
    async with rig() as it:
        await it.ask(m.build(no_tx_pool=True))
        async with connected(it) as op_node:
            it.el.behaviours["engine_getPayloadV4"] = breaks_off(LARGE.answer("q"))
            await op_node.send(m.get_payload(EL_ID, identifier="q"))
            assert await op_node.receive(1 << 30) == LARGE.answer("q")[:HALF]  # and the end of the connection
        it.el.behaviours["engine_getPayloadV4"] = answers(LARGE.answer("q"))
        assert await it.ask(m.get_payload(EL_ID, identifier="q")) == LARGE.answer("q")


async def test_a_large_error_page_is_no_reply() -> None:
    async with rig() as it:
        it.el.behaviours["engine_getPayloadV4"] = answers(b"x" * 500_000, status=502)
        await it.ask(m.build(no_tx_pool=True))
        answer = json.loads(await it.ask(m.get_payload(EL_ID, identifier="q")))
        assert (answer["id"], answer["error"]["code"]) == ("q", -32603)


async def test_a_large_answer_that_nobody_can_read_passes_all_the_same() -> None:
    body = b'{"jsonrpc":"2.0","id":"q","result":{"fork":"later","data":"%b"}}' % (b"5a" * 200_000)
    async with rig() as it:
        it.el.behaviours["engine_getPayloadV4"] = answers(body)
        await it.ask(m.build(no_tx_pool=True))
        assert await it.ask(m.get_payload(EL_ID, identifier="q")) == body


async def test_in_a_batch_nothing_is_begun() -> None:
    async with rig() as it:
        it.el.behaviours["engine_getPayloadV4"] = answers(LARGE.answer("q"))
        await it.ask(m.build(no_tx_pool=True))
        one = m.get_payload(EL_ID, identifier="q")
        answer = await it.ask(b"[" + one + b"," + m.forkchoice(m.PARENT) + b"]")
        assert answer.startswith(b"[" + LARGE.answer("q") + b",")


async def test_two_who_ask_for_the_same_block_get_the_same_one() -> None:
    gate, results = trio.Event(), dict[str, bytes]()
    async with rig() as it:
        it.el.behaviours["engine_getPayloadV4"] = in_two_parts(LARGE.answer("one"), gate)
        await it.ask(m.build(no_tx_pool=True))

        async def ask(identifier: str) -> None:
            results[identifier] = await it.ask(m.get_payload(EL_ID, identifier=identifier))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            await it.el.wait_for("engine_getPayloadV4")
            nursery.start_soon(ask, "two")
            await it.waiting(2)
            gate.set()
    assert results["one"] == LARGE.answer("one")
    assert json.loads(results["two"]) == json.loads(LARGE.answer("two"))


async def test_stopping_at_once_in_the_middle_of_an_answer_ends_everything() -> None:
    async with rig() as it, connected(it) as op_node:
        it.el.behaviours["engine_getPayloadV4"] = in_two_parts(LARGE.answer("q"), trio.Event())
        await it.ask(m.build(no_tx_pool=True))
        await op_node.send(m.get_payload(EL_ID, identifier="q"))
        await op_node.receive(HALF)
        it.stopping.set()  # and the drain takes a second
        assert await op_node.receive(1 << 30) == LARGE.answer("q")[:HALF]
