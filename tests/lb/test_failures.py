"""Each way in which a node, a client or the load balancer itself can fail, on real sockets."""

import dataclasses
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules, NodeHealth, NodeState
from appliance.lb.queue import QueueRules
from appliance.lb.relay import RelayRules
from appliance.lb.service import LbSettings
from appliance.net.http import HttpRequest, HttpResponse
from tests.lb.world import CALL, COOL, SETTINGS, FakeNode, Gate, World, answers, fake_node, hang, world
from tests.net.upstreams import Conversation, upstream
from tests.support.eventually import eventually
from tests.support.ports import lasting_port

FAST_TRACK = {"X-Fast-Track": "true"}
HIGH = {"X-High-Priority": "true"}


def replaced(**changes: Any) -> LbSettings:
    """The usual settings, but for these."""
    return dataclasses.replace(SETTINGS, **changes)


def refused_port() -> str:
    """A URL where nobody listens."""
    return f"http://127.0.0.1:{lasting_port()}"


async def ask_and_leave(w: World, when: Callable[[], bool]) -> None:
    """A client that goes away as soon as ``when`` holds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(w.call)
        await eventually(when)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_node(script: Callable[[Conversation], Awaitable[None]]) -> AsyncGenerator[str, None]:
    async with upstream(script) as made:
        yield f"http://{made.address}"


async def test_a_request_reaches_a_node_and_its_answer_comes_back_with_what_took_how_long() -> None:
    node = FakeNode()
    async with world(node) as w:
        for path in ("/", "/sim"):
            answer = await w.call(path=path)
            assert (answer.status, answer.body) == (200, COOL)
            assert answer.headers["content-type"] == "application/json"
            for name in ("queuedurationus", "simdurationus", "totaldurationus", "queuesizestart", "queuesizeend"):
                assert answer.headers[f"x-priolb-{name}"].isdigit()
        (request, _) = node.requests
        assert (request.method, request.body) == ("POST", CALL)
        assert (request.headers["content-type"], request.headers["accept"]) == ("application/json", "application/json")


async def test_a_json_rpc_error_with_status_200_is_an_answer() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"reverted"}}'
    node = FakeNode(answers(200, body))
    async with world(node) as w:
        answer = await w.call()
        assert (answer.status, answer.body, len(node.requests)) == (200, body, 1)


async def test_a_node_that_answers_with_an_error_is_tried_elsewhere() -> None:
    bad, good = FakeNode(answers(503)), FakeNode()
    async with world(bad, good) as w:
        for _ in range(2):  # whoever is first
            assert (await w.call()).status == 200
        assert len(good.requests) == 2
        assert w.metric("lb_retries_total") == len(bad.requests) >= 1


async def test_when_tries_run_out_the_nodes_status_and_body_go_to_the_client() -> None:
    node = FakeNode(answers(479, b"no such thing\n"))
    async with world(node) as w:
        answer = await w.call()
        assert (answer.status, answer.body) == (479, b"no such thing\n")
        assert len(node.requests) == 3


async def test_a_status_of_4xx_is_the_requests_own_and_takes_no_node_out() -> None:
    node = FakeNode(answers(400))
    async with world(node) as w:
        for _ in range(5):
            await w.call()
        assert w.state() == "healthy"


async def test_a_node_that_refuses_connections_is_tried_elsewhere_and_then_left_out() -> None:
    good = FakeNode()
    async with world(refused_port(), good) as w:
        for _ in range(10):
            assert (await w.call()).status == 200
        assert w.state(0) == "ejected"
        before = w.metric("lb_retries_total")
        for _ in range(5):
            assert (await w.call()).status == 200
        assert w.metric("lb_retries_total") == before


async def test_a_node_that_hangs_counts_as_failing_and_its_requests_go_elsewhere(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    gate = Gate()
    hanging, good = FakeNode(hang), FakeNode(gate)
    rules = RelayRules(queue_timeout_s=50.0, handover_timeout_s=50.0, proxy_timeout_s=10.0)
    async with world(hanging, good, settings=replaced(relay=rules)) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(expect, w, 200)
            await eventually(lambda: (hanging.running, good.running) == (3, 3))
            good.behaviour = None
            gate.open_all()
            await eventually(lambda: sum(node.in_flight for node in w.lb._nodes.nodes) == 3)
            mock_clock.jump(10.0)
        assert w.state(0) == "ejected"
        assert "no answer" in str(w.lb.explain_nodes())
        await eventually(lambda: hanging.running == 0)  # its connections were closed


async def test_a_hanging_node_alone_gives_504_after_its_time() -> None:
    rules = RelayRules(tries=1, proxy_timeout_s=0.1, queue_timeout_s=5.0)
    async with world(FakeNode(hang), settings=replaced(relay=rules)) as w:
        answer = await w.call()
        assert (answer.status, answer.body) == (504, b"no answer from the node in time\n")


async def test_a_node_that_breaks_in_the_middle_of_its_answer_is_tried_elsewhere_and_the_client_sees_one_answer() -> (
    None
):
    async def half(conversation: Conversation) -> None:
        while (request := await conversation.request()) is not None:
            if b"net_version" in request:
                await conversation.answer(b"{}")
            else:
                await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of")
                return

    good = FakeNode()
    async with raw_node(half) as url, world(url, good) as w:
        for _ in range(4):
            answer = await w.call()
            assert (answer.status, answer.body) == (200, COOL)


async def test_a_node_that_talks_nonsense_gives_502_and_goes_out() -> None:
    async def nonsense(conversation: Conversation) -> None:
        while await conversation.request() is not None:
            await conversation.send(b"220 smtp ready\r\n")
            return

    async with raw_node(nonsense) as url, world(url) as w:
        answer = await w.call()
        assert (answer.status, answer.body) == (502, b"the connection to the node failed\n")
        assert w.state() == "ejected"


async def test_a_kept_connection_that_the_node_closed_costs_no_try() -> None:
    async def one_each(conversation: Conversation) -> None:
        if await conversation.request() is not None:
            await conversation.answer(COOL)

    async with raw_node(one_each) as url, world(url) as w:
        for _ in range(5):
            assert (await w.call()).status == 200
        assert w.metric("lb_retries_total") == 0


async def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    node = FakeNode(answers(200, b"x" * 5000))
    nodes = NodeSettings(default_workers=4, max_response_bytes=4096, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes)) as w:
        answer = await w.call()
        assert (answer.status, answer.body) == (502, b"the node's answer is too large\n")
        assert (len(node.requests), w.state()) == (1, "healthy")


async def test_without_nodes_the_answer_is_immediate() -> None:
    async with world() as w:
        answer = await w.call()
        assert (answer.status, answer.body) == (503, b"no nodes available\n")
        assert answer.headers["retry-after"] == "1"
        assert (await w.get("/healthz")).status == 503


async def test_when_all_nodes_are_out_requests_fail_fast_and_those_that_wait_hear_of_it() -> None:
    node, gate = FakeNode(), Gate()
    nodes = NodeSettings(default_workers=1, health=HealthRules(max_fails=1, check_interval_s=600.0, ejection_s=600.0))
    async with world(node, settings=replaced(nodes=nodes, relay=RelayRules(tries=1, queue_timeout_s=30.0))) as w:
        node.behaviour = gate
        results: list[int] = []

        async def call() -> None:
            results.append((await w.call()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(call)
            await eventually(lambda: sum(w.sizes()) == 3 and node.running == 1)
            node.check_status = 500
            await fail_running(w)  # so it is checked at once, and serves as a last resort until then
            await eventually(lambda: len(results) == 3)
            gate.open_all()
        assert sorted(results) == [200, 502, 503, 503]
        assert (await w.call()).body == b"no healthy nodes available\n"
        assert w.lb.facts()[0].healthy is False


async def fail_running(w: World) -> None:
    """The node's connections break."""
    for job in list(w.lb._relay._proxying._began):
        job.lane._connection._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # it is in use
    await trio.lowlevel.checkpoint()


async def test_a_node_that_was_out_is_probed_and_comes_back_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    enter = NodeHealth._enter

    def spy(self: NodeHealth, state: NodeState, now: float, reason: str) -> None:
        states.append(str(state))
        enter(self, state, now, reason)

    monkeypatch.setattr(NodeHealth, "_enter", spy)
    node = FakeNode(answers(500))
    health = HealthRules(max_fails=2, ejection_s=0.05, check_interval_s=0.05, slow_return_s=0.4)
    nodes = NodeSettings(default_workers=4, health=health)
    async with world(node, settings=replaced(nodes=nodes)) as w:
        await w.call()
        assert states[0] == "ejected"
        node.behaviour = None
        capacities: list[int] = []

        def back() -> bool:
            capacities.append(w.lb._nodes.nodes[0].capacity)
            return w.state() == "healthy"

        await eventually(back)
        assert states[-3:] == ["probing", "returning", "healthy"]
        assert capacities == sorted(capacities)
        assert (await w.call()).status == 200
        assert w.metric("lb_ejections_total") >= 1


async def test_a_node_whose_checks_fail_goes_out_without_a_request() -> None:
    node = FakeNode(check_status=500)
    health = HealthRules(max_fails=2, check_interval_s=0.02)
    async with world(node, settings=replaced(nodes=NodeSettings(health=health))) as w:
        await eventually(lambda: w.state() in ("ejected", "probing"))
        assert "check" in str(w.lb.explain_nodes())


async def test_a_client_that_goes_away_leaves_the_queue_at_once() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes)) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, w, 200)
            await eventually(lambda: node.running == 1)
            await ask_and_leave(w, lambda: sum(w.sizes()) == 1)
            await eventually(lambda: sum(w.sizes()) == 0)
            gate.open_all()
        assert len(node.requests) == 1
        assert w.metric("lb_cancelled_total") == 1


async def test_a_client_that_goes_away_frees_its_worker_and_the_nodes_connection_at_once() -> None:
    node = FakeNode(hang)
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes)) as w:
        await ask_and_leave(w, lambda: node.running == 1)
        await eventually(lambda: node.running == 0)
        assert node.cancelled == 1
        node.behaviour = None
        assert (await w.call()).status == 200
        assert w.state() == "healthy"


async def test_a_full_queue_answers_503_with_retry_after() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes, queue=QueueRules(limits=(0, 0, 1)))) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, w, 200)
            await eventually(lambda: node.running == 1)
            nursery.start_soon(expect, w, 200)
            await eventually(lambda: w.sizes() == (0, 0, 1))
            answer = await w.call()
            assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"queue full\n", "1")
            nursery.start_soon(expect, w, 200, HIGH)  # another queue has room
            await eventually(lambda: w.sizes() == (0, 1, 1))
            gate.open_all()
            await eventually(lambda: bool(gate.waiting))
            gate.open_all()
            await eventually(lambda: bool(gate.waiting))
            gate.open_all()
        assert w.metric("lb_refused_total", reason="queue_full") == 1


async def test_who_waits_too_long_is_told() -> None:
    node = FakeNode(hang)
    rules = RelayRules(queue_timeout_s=0.1, handover_timeout_s=20.0, proxy_timeout_s=5.0)
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes, relay=rules)) as w, trio.open_nursery() as nursery:
        nursery.start_soon(w.call)
        await eventually(lambda: node.running == 1)
        answer = await w.call()
        assert (answer.status, answer.body) == (503, b"request timeout hit before processing\n")
        assert sum(w.sizes()) == 0
        nursery.cancel_scope.cancel()


async def test_when_no_worker_becomes_free_at_all_the_next_in_line_is_told() -> None:
    node = FakeNode(hang)
    rules = RelayRules(queue_timeout_s=30.0, handover_timeout_s=0.1, proxy_timeout_s=5.0)
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes, relay=rules)) as w, trio.open_nursery() as nursery:
        nursery.start_soon(w.call)
        await eventually(lambda: node.running == 1)
        answer = await w.call()
        assert (answer.status, answer.body) == (503, b"node timeout\n")
        nursery.cancel_scope.cancel()


async def test_those_behind_the_one_that_is_told_are_served_when_the_worker_is_free_again() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    rules = RelayRules(queue_timeout_s=60.0, handover_timeout_s=1.0, proxy_timeout_s=60.0)
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    results: list[bytes] = []

    async def call(w: World) -> None:
        results.append((await w.call()).body)

    async with world(node, settings=replaced(nodes=nodes, relay=rules)) as w, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(call, w)
        await eventually(lambda: bool(results))
        node.behaviour = None
        gate.open_all()
        await eventually(lambda: len(results) == 4)
    assert results == [b"node timeout\n", COOL, COOL, COOL]


async def test_the_order_of_priorities_holds_on_the_wire() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    rules = QueueRules(fast_track_per_high=2)
    async with world(node, settings=replaced(nodes=nodes, queue=rules)) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.call, b"first")
            await eventually(lambda: node.running == 1)
            waiting: list[tuple[bytes, dict[str, str]]] = [(b"L", {}), (b"H", HIGH), (b"H", {"high_prio": "true"})]
            waiting += [(b"F", FAST_TRACK), (b"F", FAST_TRACK | HIGH), (b"F", FAST_TRACK)]
            for number, (body, headers) in enumerate(waiting, 1):
                nursery.start_soon(w.call, body, headers)
                await eventually(lambda number=number: sum(w.sizes()) == number)  # type: ignore[misc]  # bound now
            for _ in range(7):
                await eventually(lambda: bool(gate.waiting))
                gate.open_one()
        assert b"".join(request.body for request in node.requests) == b"firstFFHFHL"


async def test_a_body_over_the_limit_is_refused_with_the_originals_words() -> None:
    node = FakeNode()
    async with world(node, settings=replaced(max_body_bytes=1000)) as w:
        answer = await w.call(b"x" * 1001)
        assert (answer.status, answer.body) == (400, b"Payload too large\n")
        assert (await w.call(b"x" * 1000)).status == 200
        assert len(node.requests) == 1


async def test_large_bodies_pass_unchanged_in_both_directions() -> None:
    async def echo(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, request.body)

    async with world(FakeNode(echo)) as w:
        body = bytes(range(256)) * 12_000
        assert (await w.call(body)).body == body


async def test_no_node_gets_more_than_its_workers() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    async with world(node) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(expect, w, 200)
            for left in range(60, 0, -1):
                await eventually(partial(_waits, gate, min(left, 4)))
                gate.open_one()
        assert (node.most_running, len(node.requests)) == (4, 60)


def _waits(gate: Gate, count: int) -> bool:
    return len(gate.waiting) == count


async def test_requests_spread_over_the_nodes() -> None:
    nodes = [FakeNode(), FakeNode(), FakeNode()]
    async with world(*nodes) as w:
        for _ in range(9):
            await w.call()
        assert [len(node.requests) for node in nodes] == [3, 3, 3]


async def test_stopping_finishes_what_runs_and_what_waits() -> None:
    node, gate = FakeNode(), Gate()
    node.behaviour = gate
    nodes = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))
    async with world(node, settings=replaced(nodes=nodes)) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(expect, w, 200)
            await eventually(lambda: sum(w.sizes()) == 2)
            w.stopping.set()
            for _ in range(3):
                await eventually(lambda: bool(gate.waiting))
                gate.open_one()
        await w.ended.wait()
        assert len(node.requests) == 3


async def test_a_node_killed_under_load_loses_no_request() -> None:
    async with world(*[FakeNode(), FakeNode()]) as w, fake_node() as doomed, trio.open_nursery() as killing:
        await w.nodes("POST", doomed.url)
        statuses: list[int] = []

        async def client() -> None:
            statuses.extend([(await w.call()).status for _ in range(25)])

        async def kill() -> None:
            await eventually(lambda: len(doomed.requests) > 20)
            doomed.behaviour = answers(502)

        killing.start_soon(kill)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client)
        assert statuses == [200] * 500


async def expect(w: World, status: int, headers: dict[str, str] | None = None) -> None:
    answer = await w.call(headers=headers or {})
    assert (answer.status, answer.body) == (status, COOL)
