"""One client's requests that fail on every node take nothing from the others, on real sockets."""

import dataclasses

import pytest
import trio

from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.relay import RelayRules
from appliance.net.http import HttpRequest, HttpResponse
from tests.lb.test_failures import expect, replaced
from tests.lb.world import COOL, FakeNode, World, answers, hang, world
from tests.support.eventually import eventually

BAD = b'{"jsonrpc":"2.0","method":"debug_traceBlock","params":[],"id":1}'
RARE_CHECKS = HealthRules(check_interval_s=600.0, ejection_s=600.0)
QUICK = replaced(
    nodes=NodeSettings(default_workers=4, health=RARE_CHECKS),
    relay=RelayRules(queue_timeout_s=30.0, handover_timeout_s=20.0, proxy_timeout_s=0.3),
)


async def picky(request: HttpRequest) -> HttpResponse:
    """A node that answers at once, but for the bad request, which takes longer than it may."""
    if request.body == BAD:
        await trio.sleep_forever()
    return HttpResponse(200, COOL)


async def stumbling(request: HttpRequest) -> HttpResponse:
    """A node that fails the bad request, and no other."""
    return HttpResponse(500 if request.body == BAD else 200, COOL)


async def bad(w: World, status: int) -> None:
    assert (await w.call(BAD)).status == status


async def test_slow_requests_that_time_out_everywhere_take_no_node_from_those_that_are_served() -> None:
    once = dataclasses.replace(QUICK, relay=RelayRules(tries=1, queue_timeout_s=30.0, proxy_timeout_s=1.0))
    async with world(*[FakeNode(picky) for _ in range(3)], settings=once) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(bad, w, 504)
            await eventually(lambda: w.metric("lb_in_flight") == 9)
            for _ in range(6):  # every node serves others meanwhile
                await expect(w, 200)
        assert [w.state(number) for number in range(3)] == ["healthy"] * 3


@pytest.mark.parametrize("nodes", [1, 3])
async def test_requests_that_fail_on_quiet_nodes_do_not_empty_the_node_set(nodes: int) -> None:
    async with world(*[FakeNode(stumbling) for _ in range(nodes)], settings=QUICK) as w:
        for _ in range(4):
            await bad(w, 500)
            await expect(w, 200)
        fact = w.lb.facts()[0]
        assert fact.healthy
        assert fact.reason == ("1 of 1 nodes get requests, 1 of them as a last resort" if nodes == 1 else fact.reason)


async def test_slow_requests_on_quiet_nodes_do_not_either() -> None:
    async with world(*[FakeNode(picky) for _ in range(3)], settings=QUICK) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(bad, w, 504)
        for _ in range(6):
            await expect(w, 200)


async def test_a_node_that_really_hangs_goes_out_although_it_answered_checks_before() -> None:
    hanging, good = FakeNode(hang), [FakeNode(), FakeNode()]
    async with world(hanging, *good, settings=QUICK) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(expect, w, 200)
        assert w.state(0) == "ejected"
        assert w.lb._nodes.nodes[0].capacity == 0
        before = len(hanging.requests)
        for _ in range(6):
            await expect(w, 200)
        assert len(hanging.requests) == before


async def test_when_the_last_resorts_check_fails_everybody_is_answered_at_once() -> None:
    node = FakeNode(answers(500))
    async with world(node, settings=QUICK) as w:
        await eventually(lambda: node.checks == 1)
        node.check_status = 500
        await bad(w, 500)
        await eventually(lambda: not w.lb.facts()[0].healthy)
        assert (await w.call()).body == b"no healthy nodes available\n"
        assert "then a check failed: status 500" in str(w.lb.explain_nodes())
