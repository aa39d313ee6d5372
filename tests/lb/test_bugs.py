"""A bug of ours costs the one request that meets it: its client is told, nothing stays taken, everybody else goes on.

Each test lets one call somewhere on a request's way raise, once.
"""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from appliance.lb.deadlines import Deadlines
from appliance.lb.dispatch import Dispatcher
from appliance.lb.held_answers import HeldAnswers
from appliance.lb.node import Node, NodeSettings
from appliance.lb.node_health import HealthRules, NodeHealth
from appliance.lb.relay import Relay, RelayRules
from appliance.lb.request_log import RequestLog
from appliance.lb.server import Face
from appliance.net.answer_parser import AnswerParser
from appliance.net.http_lane import HttpLane
from appliance.net.http_parser import RequestParser
from appliance.net.quick_session import QuickSession
from tests.lb.test_failures import ask_and_leave, replaced
from tests.lb.world import COOL, FakeNode, Gate, World, answers, hang, hangs_till_its_time_is_up, world
from tests.support.eventually import eventually

ONE_WORKER = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))


class BugError(Exception):
    """Ours."""


class Bug:
    """Raises with the next call, or after it has done its work; afterwards all is as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.met = 0

    def put(self, owner: Any, name: str, *, after: bool = False) -> None:
        usual: Callable[..., Any] = getattr(owner, name)

        def broken(*arguments: Any, **options: Any) -> Any:
            self._monkeypatch.setattr(owner, name, usual)
            self.met += 1
            if after:
                usual(*arguments, **options)
            raise BugError

        self._monkeypatch.setattr(owner, name, broken)


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> Bug:
    return Bug(monkeypatch)


async def warm(w: World) -> None:
    assert (await w.call()).status == 200
    await trio.testing.wait_all_tasks_blocked(0.01)


def assert_nothing_is_taken(w: World) -> None:
    assert sum(node.in_flight for node in w.lb._nodes.nodes) == 0
    assert w.sizes() == (0, 0, 0)
    assert len(w.lb._relay._proxying) == len(w.lb._relay._queued) == 0
    assert w.lb._held.taken == 0


async def assert_well(w: World) -> None:
    """All workers serve, on the connection that the bug was met on, too."""
    assert_nothing_is_taken(w)
    for _ in range(3):
        answer = await w.call()
        assert (answer.status, answer.body) == (200, COOL)
    assert_nothing_is_taken(w)


def failures(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs if line.get("exc_info")]


# Where the request's bytes came.
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Face, "_take_in", False),
        (Face, "_submit", True),
        (RequestLog, "added", False),
        (Relay, "begin", False),
        (Node, "take_lane", False),
        (HttpLane, "begin", False),
        (HttpLane, "begin", True),
        (Relay, "begin", True),
    ],
)
async def test_where_a_request_begins(bug: Bug, owner: type, name: str, after: bool) -> None:
    async with world(FakeNode(), settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        with capture_logs() as logs:
            bug.put(owner, name, after=after)
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (500, b"internal error\n", 1)
        assert failures(logs) == ["handler failed"]
        await assert_well(w)


# Where the node's answer came.
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (NodeHealth, "request_succeeded", False),
        (Relay, "_succeeded", False),
        (Relay, "_free", True),
        (Node, "put_lane", True),
        (Face, "told", False),
        (HeldAnswers, "response", False),
        (RequestLog, "completed", False),
    ],
)
@pytest.mark.parametrize("size", [len(COOL), 100_000], ids=["whole", "finished in a task"])
async def test_where_an_answer_comes(bug: Bug, owner: type, name: str, after: bool, size: int) -> None:
    node = FakeNode()
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        node.behaviour = answers(200, COOL.ljust(size))
        with capture_logs() as logs:
            bug.put(owner, name, after=after)
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (500, b"internal error\n", 1)
        assert failures(logs)
        node.behaviour = None
        await assert_well(w)


async def test_a_bug_in_reading_a_nodes_answer_is_a_failed_try(bug: Bug) -> None:
    node = FakeNode()
    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        with capture_logs() as logs:
            bug.put(HttpLane, "_end", after=False)
            with trio.fail_after(60):
                answer = await w.call()
        assert (answer.status, bug.met) == (200, 1)
        assert "reading an answer failed" in {line["event"] for line in logs}
        await assert_well(w)


@pytest.mark.parametrize("name", ["reply", "_encode"])
async def test_where_an_answer_is_sent(bug: Bug, name: str) -> None:
    async with world(FakeNode(), settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        with capture_logs() as logs:
            bug.put(QuickSession, name)
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (500, b"internal error\n", 1)
        assert failures(logs) == ["request failed"]
        await assert_well(w)


async def test_where_an_answer_is_out_the_client_has_it_and_the_connection_ends(bug: Bug) -> None:
    async with world(FakeNode(), settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        with capture_logs() as logs:
            bug.put(QuickSession, "_forget_request", after=True)
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (200, COOL, 1)
        assert failures(logs) == ["request failed"]
        await assert_well(w)


async def test_where_an_answer_is_read_the_request_goes_to_another_node(bug: Bug) -> None:
    async with world(FakeNode(), FakeNode()) as w:
        await warm(w)
        await warm(w)
        with capture_logs() as logs:
            bug.put(AnswerParser, "feed")
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (200, COOL, 1)
        assert w.metric("lb_retries_total") == 1
        assert failures(logs) == ["reading an answer failed"]
        await assert_well(w)


async def test_where_a_request_is_read(bug: Bug) -> None:
    async with world(FakeNode()) as w:
        await warm(w)
        with capture_logs() as logs:
            bug.put(RequestParser, "feed")
            answer = await w.call()
        assert (answer.status, answer.body, bug.met) == (500, b"internal error\n", 1)
        assert failures(logs) == ["parsing failed"]
        await assert_well(w)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), [(HttpLane, "abort"), (HttpLane, "close"), (Face, "told")])
async def test_where_a_nodes_time_is_up(bug: Bug, owner: type, name: str, after: bool, mock_clock: MockClock) -> None:
    node = FakeNode()
    rules = RelayRules(tries=1, proxy_timeout_s=10.0, queue_timeout_s=50.0)
    async with world(node, settings=replaced(nodes=ONE_WORKER, relay=rules)) as w:
        await warm(w)
        node.behaviour = hangs_till_its_time_is_up(mock_clock, rules.proxy_timeout_s)
        with capture_logs() as logs:
            bug.put(owner, name, after=after)
            answer = await w.call()
        handed_over = after and name != "close"  # by then the task has it, and tells what became of the node
        assert (answer.status, bug.met) == (504 if handed_over else 500, 1)
        assert failures(logs)
        node.behaviour = None
        await assert_well(w)


@pytest.mark.parametrize("rules", [{"queue_timeout_s": 10.0}, {"handover_timeout_s": 10.0}], ids=["queue", "hand-over"])
@pytest.mark.parametrize(("owner", "name"), [(Relay, "_wake"), (Dispatcher, "cancel"), (Deadlines, "stop")])
async def test_where_the_time_in_the_queue_is_up(
    bug: Bug, owner: type, name: str, rules: dict[str, float], mock_clock: MockClock
) -> None:
    mock_clock.rate = 1.0
    node, gate = FakeNode(), Gate()
    usual = {"proxy_timeout_s": 50.0, "queue_timeout_s": 50.0, "handover_timeout_s": 50.0}
    settings = replaced(nodes=ONE_WORKER, relay=RelayRules(tries=1, **(usual | rules)))
    async with world(node, settings=settings) as w:
        await warm(w)
        node.behaviour = gate

        async def break_when_one_waits() -> None:
            await eventually(lambda: sum(w.sizes()) == 1)
            await trio.testing.wait_all_tasks_blocked()  # its task waits, too
            bug.put(owner, name)
            mock_clock.jump(10.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.call)
            await eventually(lambda: node.running == 1)
            with capture_logs() as logs:
                nursery.start_soon(break_when_one_waits)
                answer = await w.call()
            assert (answer.status, bug.met) == (500, 1)
            assert failures(logs) == ["the end of a wait failed", "handler failed"]
            gate.open_all()
        node.behaviour = None
        await assert_well(w)


@pytest.mark.parametrize(
    ("owner", "name", "after"), [(Relay, "drop", False), (Face, "_cancelled", False), (HttpLane, "close", True)]
)
async def test_where_a_client_goes_away(bug: Bug, owner: type, name: str, after: bool, mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    node, statuses = FakeNode(), list[int]()
    rules = RelayRules(tries=1, proxy_timeout_s=10.0, queue_timeout_s=50.0, handover_timeout_s=50.0)
    async with world(node, settings=replaced(nodes=ONE_WORKER, relay=rules)) as w:
        await warm(w)
        node.behaviour = hang
        with capture_logs() as logs:
            bug.put(owner, name, after=after)
            await ask_and_leave(w, lambda: node.running == 1)
            await eventually(lambda: bug.met == 1)
        assert failures(logs) == ["handler failed when it was cancelled"]
        node.behaviour = None

        async def call() -> None:
            statuses.append((await w.call()).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await eventually(lambda: bool(statuses) or sum(w.sizes()) == 1)
            mock_clock.jump(10.0)  # at the latest now the worker is free
        assert statuses == [200]
        await assert_well(w)


@pytest.mark.parametrize(
    ("owner", "name"), [(RequestLog, "added"), (Relay, "complete"), (Relay, "begin"), (RequestLog, "completed")]
)
async def test_in_a_task_that_had_to_wait(bug: Bug, owner: type, name: str) -> None:
    node, gate = FakeNode(), Gate()
    results: list[int] = []

    async def call() -> None:
        results.append((await w.call()).status)

    async with world(node, settings=replaced(nodes=ONE_WORKER)) as w:
        await warm(w)
        node.behaviour = gate
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await eventually(lambda: node.running == 1)
            if name == "added":
                bug.put(owner, name)
            nursery.start_soon(call)
            if name != "added":
                await eventually(lambda: sum(w.sizes()) == 1 or bool(results))
                bug.put(owner, name)
            if name == "complete":
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.02)
            while len(results) < (3 if name == "complete" else 2):
                if gate.waiting:
                    gate.open_one()
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(results) in ([200, 500], [200, 200, 500])
        assert bug.met == 1
        node.behaviour = None
        await assert_well(w)
