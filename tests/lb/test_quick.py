"""The way without a task: a client's connection and one to the node are there, and a worker is free."""

import gc
import random

import pytest
import trio
from trio.testing import MockClock

from appliance.lb.dispatch import Job
from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.rate_limit import Rate
from appliance.lb.relay import Relay, RelayRules
from appliance.net.http import HttpRequest, HttpResponse
from tests.lb.test_failures import FAST_TRACK, HIGH, ask_and_leave, raw_node, replaced
from tests.lb.world import CALL, COOL, FakeNode, Gate, World, answers, hang, hangs_till_its_time_is_up, world
from tests.net.upstreams import Conversation
from tests.support.eventually import eventually

ONE_WORKER = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))


@pytest.fixture
def in_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name each time that a request goes on in a task."""
    names: list[str] = []
    for name in ("complete", "resume"):

        def spy(self: Relay, *arguments: object, name: str = name, usual: object = getattr(Relay, name)) -> object:
            names.append(name)
            return usual(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(Relay, name, spy)
    return names


async def warm(w: World, nodes: int = 1) -> None:
    """Every node is asked once, so that there is a connection to it, and the client's connection is parked."""
    for _ in range(nodes):
        assert (await w.call()).status == 200
    await trio.testing.wait_all_tasks_blocked(0.01)


def in_flight(w: World) -> int:
    return sum(node.in_flight for node in w.lb._nodes.nodes)


async def test_after_the_first_request_none_needs_a_task(in_tasks: list[str]) -> None:
    node = FakeNode()
    async with world(node) as w:
        await warm(w)
        in_tasks.clear()
        for headers in ({}, HIGH, FAST_TRACK):
            for path in ("/", "/sim", "/?a=b"):
                answer = await w.call(path=path, headers=headers)
                assert (answer.status, answer.body) == (200, COOL)
                assert answer.headers["content-type"] == "application/json"
                for name in ("queuedurationus", "simdurationus", "totaldurationus", "queuesizestart", "queuesizeend"):
                    assert answer.headers[f"x-priolb-{name}"].isdigit()
        assert in_tasks == []
        assert w.metric("lb_requests_total", priority="high") == 3
        assert w.metric("lb_proxy_seconds_count", priority="fast_track") == 3
        assert w.metric("lb_answers_total", status="2xx") == 10
        assert in_flight(w) == 0


async def test_nothing_of_a_request_waits_for_the_garbage_collector() -> None:
    """Its body may be megabytes."""
    node = FakeNode()
    async with world(node) as w:
        await warm(w)
        gc.collect()
        gc.disable()
        try:
            for behaviour in (None, answers(400), answers(200, bytes(100_000))):
                node.behaviour = behaviour
                for _ in range(3):
                    await w.call()
            await trio.testing.wait_all_tasks_blocked(0.01)
            left = [each for each in gc.get_objects() if isinstance(each, Job)]
        finally:
            gc.enable()
        assert left == []


async def test_a_large_answer_is_finished_in_a_task(in_tasks: list[str]) -> None:
    body = random.Random(1).randbytes(700_000)
    node = FakeNode()
    async with world(node) as w:
        await warm(w)
        node.behaviour = answers(200, body)
        in_tasks.clear()
        assert (await w.call()).body == body
        assert in_tasks == ["resume"]
        assert (await w.call()).body == body
        assert (len(node.requests), in_flight(w)) == (3, 0)


async def test_an_error_of_the_node_is_tried_elsewhere_and_held_against_it() -> None:
    bad, good = FakeNode(), FakeNode()
    async with world(bad, good) as w:
        await warm(w, 2)
        bad.behaviour = answers(500)
        for _ in range(8):
            assert (await w.call()).status == 200
        assert w.metric("lb_retries_total") == 3
        assert (w.state(0), w.state(1), in_flight(w)) == ("ejected", "healthy", 0)


async def test_a_status_of_4xx_is_tried_again_and_held_against_nobody() -> None:
    node = FakeNode()
    async with world(node) as w:
        await warm(w)
        node.behaviour = answers(429, b"slow down\n")
        answer = await w.call()
        assert (answer.status, answer.body, len(node.requests)) == (429, b"slow down\n", 4)
        assert (w.state(), in_flight(w)) == ("healthy", 0)


async def test_a_node_that_hangs_is_left_for_another_one_in_time(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    hanging, good = FakeNode(), FakeNode()
    rules = RelayRules(queue_timeout_s=50.0, handover_timeout_s=50.0, proxy_timeout_s=10.0)
    async with world(hanging, good, settings=replaced(relay=rules)) as w:
        await warm(w, 2)
        hanging.behaviour = hangs_till_its_time_is_up(mock_clock, rules.proxy_timeout_s)
        for _ in range(4):
            assert (await w.call()).status == 200
        assert 2 <= w.metric("lb_retries_total") <= 3
        await eventually(lambda: hanging.running == 0)
        assert in_flight(w) == 0


async def test_a_node_that_hangs_alone_gives_504(mock_clock: MockClock) -> None:
    node = FakeNode()
    rules = RelayRules(tries=1, proxy_timeout_s=10.0, queue_timeout_s=50.0)
    async with world(node, settings=replaced(relay=rules)) as w:
        await warm(w)
        node.behaviour = hangs_till_its_time_is_up(mock_clock, rules.proxy_timeout_s)
        answer = await w.call()
        assert (answer.status, answer.body) == (504, b"no answer from the node in time\n")
        assert in_flight(w) == 0


async def test_a_client_that_goes_away_frees_its_worker_and_the_nodes_connection_at_once() -> None:
    node = FakeNode()
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        node.behaviour = hang
        await ask_and_leave(w, lambda: node.running == 1)
        await eventually(lambda: node.cancelled == 1)
        assert in_flight(w) == 0
        node.behaviour = None
        assert (await w.call()).status == 200
        assert (w.state(), w.metric("lb_cancelled_total")) == ("healthy", 1)


async def test_who_goes_away_makes_room_for_who_waits() -> None:
    node, gate = FakeNode(), Gate()
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        node.behaviour = gate
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            nursery.start_soon(_within, first, w)
            await eventually(lambda: node.running == 1)
            nursery.start_soon(_expect_cool, w)
            await eventually(lambda: sum(w.sizes()) == 1)
            first.cancel()
            await eventually(lambda: len(node.requests) == 3)
            gate.open_all()
        assert in_flight(w) == 0


async def _within(scope: trio.CancelScope, w: World) -> None:
    with scope:
        await w.call()


async def _expect_cool(w: World) -> None:
    assert (await w.call()).body == COOL


async def test_requests_that_find_no_worker_wait_in_order() -> None:
    node, gate = FakeNode(), Gate()
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        node.behaviour = gate
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.call, b"first")
            await eventually(lambda: node.running == 1)
            for number, (body, headers) in enumerate([(b"L", {}), (b"H", HIGH), (b"F", FAST_TRACK)], 1):
                nursery.start_soon(w.call, body, headers)
                await eventually(lambda number=number: sum(w.sizes()) == number)  # type: ignore[misc]  # bound now
            for _ in range(4):
                await eventually(lambda: bool(gate.waiting))
                gate.open_one()
        assert b"".join(request.body for request in node.requests[1:]) == b"firstFHL"


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_a_connection_that_the_node_closes_while_it_is_idle_costs_no_try(says_goodbye: bool) -> None:
    async def one_each(conversation: Conversation) -> None:
        if await conversation.request() is not None:
            await conversation.answer(COOL)
            if says_goodbye:
                await conversation.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    async with raw_node(one_each) as url, world(url) as w:
        for _ in range(4):
            answer = await w.call()
            assert (answer.status, answer.body) == (200, COOL)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert (w.metric("lb_retries_total"), in_flight(w)) == (0, 0)


async def test_a_node_that_breaks_in_the_middle_of_its_answer_is_tried_again() -> None:
    async def second_is_half(conversation: Conversation) -> None:
        while (request := await conversation.request()) is not None:
            count[0] += b"net_version" not in request
            if count[0] == 2:
                count[0] += 1
                await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of")
                return
            await conversation.answer(COOL)

    count = [0]
    async with raw_node(second_is_half) as url, world(url) as w:
        await warm(w)
        answer = await w.call()
        assert (answer.status, answer.body, w.metric("lb_retries_total")) == (200, COOL, 1)


async def test_over_its_rate_a_client_gets_429_also_here() -> None:
    async with world(FakeNode(), settings=replaced(instance_rate=Rate(0.001, 3))) as w:
        await warm(w)
        assert [(await w.call()).status for _ in range(3)] == [200, 200, 429]


async def test_a_load_balancer_that_stops_finishes_what_is_under_way() -> None:
    node, gate = FakeNode(), Gate()
    async with world(node) as w:
        await warm(w)
        node.behaviour = gate
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_cool, w)
            await eventually(lambda: node.running == 1)
            w.stopping.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            gate.open_all()
        await w.ended.wait()


async def test_a_node_that_is_removed_finishes_what_it_has() -> None:
    first, second, gate = FakeNode(), FakeNode(), Gate()
    async with world(second) as w, world(first):  # served by a world of its own
        await w.lb.add_node(first.url, None, "test")
        await warm(w, 2)
        first.behaviour = second.behaviour = gate
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(_expect_cool, w)
            await eventually(lambda: (first.running, second.running) == (1, 1))
            await w.lb.remove_node(first.url, "test")
            gate.open_all()
        assert in_flight(w) == 0
        second.behaviour = None
        assert (await w.call()).status == 200


async def test_in_any_mixture_no_worker_is_lost_and_every_client_that_stays_has_its_own_answer() -> None:
    chance = random.Random(7)

    async def moody(request: HttpRequest) -> HttpResponse:
        mood = chance.random()
        if mood < 0.1:
            return HttpResponse(500)
        if mood < 0.2:
            await trio.sleep(chance.random() * 0.02)
        if mood < 0.25:
            await trio.sleep_forever()
        return HttpResponse(200, request.body + bytes(200_000 if mood > 0.95 else 0))

    async def client(number: int) -> None:
        for turn in range(15):
            body = CALL + b"%d %d" % (number, turn)
            with trio.move_on_after(0.01 if chance.random() < 0.1 else 20.0):
                answer = await w.call(body, FAST_TRACK if chance.random() < 0.2 else {})
                if answer.status == 200:
                    assert answer.body.rstrip(b"\0") == body
                    count[0] += 1
                else:
                    assert answer.status in (500, 503, 504)

    count = [0]
    rules = RelayRules(queue_timeout_s=5.0, handover_timeout_s=5.0, proxy_timeout_s=0.3)
    nodes = NodeSettings(default_workers=3, health=HealthRules(max_fails=10_000, check_interval_s=600.0))
    async with world(FakeNode(moody), FakeNode(moody), settings=replaced(relay=rules, nodes=nodes)) as w:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client, number)
        await eventually(lambda: (in_flight(w), sum(w.sizes())) == (0, 0))
        assert count[0] > 150
        for made in w.lb._nodes.nodes:
            assert len(made._lanes) <= 3
        assert len(w.lb._relay._proxying) == len(w.lb._relay._queued) == 0
