"""The configuration names other nodes than before: those come, those go, and nobody who is served notices."""

import random
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs

from appliance.domain.node_uri import NodeUriError
from appliance.lb.attestation import AttestationUnavailable
from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.node_set import DeclaredNode
from appliance.net.http_server import open_listener
from tests.domain.test_node_uri import GOOD, sev
from tests.lb.test_failures import refused_port, replaced
from tests.lb.world import COOL, FakeNode, Gate, MemoryStore, World, fake_node, world
from tests.support.eventually import eventually

SEV_NODE = sev(GOOD)
ONE_WORKER = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))


async def reload(w: World, *nodes: FakeNode | DeclaredNode) -> None:
    await w.lb.reload(tuple(DeclaredNode(node.url) if isinstance(node, FakeNode) else node for node in nodes))


def shown(w: World) -> list[tuple[str, str, int]]:
    return [(node.name, node.source, node.health.workers) for node in w.lb._nodes.nodes]


async def call(w: World, times: int = 1) -> None:
    for _ in range(times):
        answer = await w.call()
        assert (answer.status, answer.body) == (200, COOL)


async def test_nodes_come_and_go_and_the_others_are_left_alone() -> None:
    stays, goes = FakeNode(), FakeNode()
    async with world(stays, goes) as w, fake_node() as comes:
        await call(w, 4)
        kept = w.lb._nodes.nodes[0]
        lanes = list(kept._lanes)
        with capture_logs() as logs:
            await reload(w, comes, stays)
        assert [(line["event"], line["node_uri"], line["who"]) for line in logs] == [
            ("node added", comes.url, "configuration"),
            ("node removed", goes.url, "configuration"),
        ]
        assert [name for name, _, _ in shown(w)] == [comes.url, stays.url]
        assert w.lb._nodes.nodes[1] is kept
        assert kept._lanes == lanes
        before = len(goes.requests)
        await call(w, 6)
        assert len(goes.requests) == before
        assert len(comes.requests) >= 2
        assert comes.checks >= 1
        with capture_logs() as logs:
            await reload(w, stays, comes)  # another order is no change
        assert logs == []


async def test_what_runs_at_a_node_that_goes_is_finished_there_and_what_waits_goes_elsewhere() -> None:
    gate, other = Gate(), FakeNode()
    goes = FakeNode(gate)
    async with world(goes, settings=replaced(nodes=ONE_WORKER)) as w, fake_node(other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, w)
            await eventually(lambda: goes.running == 1)
            nursery.start_soon(call, w)
            await eventually(lambda: sum(w.sizes()) == 1)
            await reload(w, other)
            await eventually(lambda: len(other.requests) == 1)
            assert (goes.running, goes.cancelled) == (1, 0)
            gate.open_all()
        assert [name for name, _, _ in shown(w)] == [other.url]
        assert (len(goes.requests), goes.cancelled) == (1, 0)
        await call(w, 2)


async def test_without_any_node_who_waits_is_told_and_one_that_comes_serves_again() -> None:
    gate = Gate()
    node = FakeNode(gate)
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, w)
            await eventually(lambda: node.running == 1)

            async def waits() -> None:
                answer = await w.call()
                assert (answer.status, answer.body) == (503, b"no nodes available\n")

            nursery.start_soon(waits)
            await eventually(lambda: sum(w.sizes()) == 1)
            await reload(w)
            await eventually(lambda: sum(w.sizes()) == 0)
            gate.open_all()
        node.behaviour = None
        await reload(w, node)
        await call(w)


async def test_workers_change_and_an_added_node_becomes_the_configurations() -> None:
    store = MemoryStore()
    async with fake_node() as named, fake_node() as added, fake_node() as stays:
        async with world(named, store=store) as w:
            for node in (added, stays):
                await w.lb.add_node(node.url, 3, "test")
            await reload(w, DeclaredNode(named.url, 7), added, DeclaredNode(f"{refused_port()}?_workers=2"))
            assert [(source, workers) for _, source, workers in shown(w)] == [
                ("file", 7),
                ("file", 4),
                ("file", 2),
                ("added", 3),
            ]
            assert w.lb._nodes.nodes[0].capacity == 7
            assert list(store.kept) == [stays.url]
            await reload(w, named)
            assert shown(w) == [
                (named.url, "file", 4),
                (stays.url, "added", 3),
            ]
        async with world(named, store=store) as w:
            assert shown(w) == [(named.url, "file", 4), (stays.url, "added", 3)]


@pytest.mark.parametrize(
    ("url", "error"),
    [("ftp://a", NodeUriError), (SEV_NODE, AttestationUnavailable)],
    ids=["form", "claim"],
)
async def test_what_cannot_be_a_node_changes_nothing(url: str, error: type[Exception]) -> None:
    node = FakeNode()
    async with world(node) as w:
        with pytest.raises(error):
            await reload(w, DeclaredNode("http://127.0.0.77:9"), DeclaredNode(url))
        assert shown(w) == [(node.url, "file", 4)]
        await call(w)


async def test_under_load_any_reloads_lose_no_request() -> None:
    chance = random.Random(3)
    nodes = [FakeNode() for _ in range(4)]
    over = trio.Event()

    async def load() -> None:
        while not over.is_set():
            await call(w)

    async with world(*nodes, settings=replaced(nodes=NodeSettings(default_workers=2))) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(load)
            for _ in range(40):
                named = chance.sample(nodes, chance.randint(1, 4))
                await reload(w, *(DeclaredNode(node.url, chance.randint(1, 3)) for node in named))
                assert [name for name, _, _ in shown(w)] == [node.url for node in named]
                await trio.sleep(0.003)
            over.set()
        assert (sum(node.in_flight for node in w.lb._nodes.nodes), sum(w.sizes())) == (0, 0)
        assert w.metric("lb_retries_total") == 0


async def test_a_run_that_begins_after_a_crash_has_the_nodes_of_the_last_reload() -> None:
    before, after = FakeNode(), FakeNode()
    async with world(before) as w, fake_node(after):
        w.stopping.set()
        await w.ended.wait()
        await reload(w, after)
        async with trio.open_nursery() as nursery:
            stopping = trio.Event()
            await nursery.start(partial(w.lb.run, open_listener("127.0.0.1:0"), stopping=stopping))
            assert shown(w) == [(after.url, "file", 4)]
            stopping.set()
