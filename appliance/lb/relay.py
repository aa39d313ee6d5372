"""A request's way: wait for a worker, ask its node, try another one, with deadlines. The shell around `dispatch`.

A request that finds a free worker and a connection to its node goes out by `begin`, without a task, and its answer
comes by a callback. What is not over with that goes on by `resume`, and what has to wait by `complete`, both in the
task of the client's connection: no other task, no channel. One that waits is woken by who frees its worker. When
the client goes away (`give_up`, or the task is cancelled where it stands), its place in the queue, or its worker and
the connection to the node, are free at once.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import outcome
import trio

from appliance.domain.errors import UnavailableError
from appliance.lb.deadlines import Deadlines
from appliance.lb.dispatch import Dispatcher, Job, Refusal
from appliance.lb.metrics import LbMetrics
from appliance.lb.node import Node
from appliance.lb.node_health import NodeState, settle_last_resort
from appliance.net.errors import AnswerTooLarge, TimedOut
from appliance.net.http_lane import HttpLane, LaneAnswer
from appliance.telemetry.logging import get_logger

log = get_logger("lb")

# Without the node's address: clients need not know it, and the log has it.
_PROBLEMS: Final[dict[type, tuple[int, bytes]]] = {
    TimedOut: (504, b"no answer from the node in time\n"),
    AnswerTooLarge: (502, b"the node's answer is too large\n"),
}
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
_FAILED_STATUS: Final = 400
_OTHER_PROBLEM: Final = (502, b"the connection to the node failed\n")


@dataclass(frozen=True, slots=True)
class RelayRules:
    """Times in seconds. ``tries`` counts the first one."""

    tries: int = 3
    queue_timeout_s: float = 5.0
    handover_timeout_s: float = 2.0
    proxy_timeout_s: float = 3.0


class Waiting(Job):
    """A job on its way to an answer.

    ``task`` is the one to wake while it waits in the queue, ``result`` what it was given before it came to wait. While
    a node has it ``node`` and ``lane`` are set: a worker is taken as long as they are. ``began`` is trio's time of its
    last try, ``unjudged`` an answer that was read in a callback and is left to the task.
    """

    body: bytes = b""
    request_id: str | None = None
    task: trio.lowlevel.Task | None = None
    result: "Node | Refusal | None" = None
    node: Node | None = None
    lane: HttpLane | None = None
    began: float = 0.0
    unjudged: LaneAnswer | None = None

    def log_facts(self) -> dict[str, str]:
        """What its log lines are found by."""
        return {} if self.request_id is None else {"reqID": self.request_id}

    def told(self, answer: "Answer | None") -> None:
        """What came of a try that was begun ``alone``: the answer, or None where `Relay.resume` has to go on."""
        raise NotImplementedError

    def crashed(self) -> bool:
        """`told` raised, or what led to it. True when nobody goes on with this request: it is dropped then."""
        raise NotImplementedError


class Answer(msgspec.Struct):
    """What came of a request, and when (``at``, trio's time). ``node`` is as it is shown.

    Durations in seconds; ``proxy_s`` is of the last try.
    """

    status: int
    body: bytes
    content_type: bytes
    node: str
    queue_s: float
    proxy_s: float
    at: float


class Relay:
    """Brings requests to nodes. `run` keeps the time; nodes come and go by `add` and `remove`."""

    def __init__(self, dispatcher: Dispatcher[Waiting, Node], rules: RelayRules, metrics: LbMetrics) -> None:
        self._dispatcher = dispatcher
        self._rules = rules
        self._metrics = metrics
        self._queued: Deadlines[Waiting] = Deadlines(rules.queue_timeout_s)
        self._proxying: Deadlines[Waiting] = Deadlines(rules.proxy_timeout_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the deadlines until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_tries)
            nursery.start_soon(self._end_waits)
            nursery.start_soon(self._end_stuck)
            task_status.started()

    def submit(self, job: Waiting) -> Node | Refusal | None:
        """Take a request in: its node, why it is refused, or None when it waits. Then `begin` or `complete` at once."""
        placed = self._dispatcher.submit(job, job.created)
        if placed is None:
            self._queued.start(job, job.created)
        elif isinstance(placed, Node):
            job.node = placed
        return placed

    async def complete(self, job: Waiting, placed: Node | Refusal | None) -> Answer | Refusal:
        """A node's answer, or what stands for it when all tries failed; a refusal when no node was asked.

        When this or `resume` raises, or is cancelled, `drop` the job.
        """
        if placed is None:
            placed = await self._wait(job)
        if isinstance(placed, Node):
            self.begin(job, trio.current_time())
            return await self.resume(job)
        self._metrics.refused[placed].inc()
        return placed

    def begin(self, job: Waiting, began: float, *, alone: bool = False) -> bool:
        """Send the request to its node, as far as that needs no waiting.

        True, only for one that is ``alone``: it is under way, and `Waiting.told` is going to be called. Else `resume`
        it at once.
        """
        node, body = job.node, job.body
        if node is None:
            raise AssertionError("begun without a worker")
        if job.tries:
            self._metrics.retries.inc()
        else:
            self._metrics.queue_wait.observe(job.priority, began - job.created)
        job.tries += 1
        job.began = began
        lane = job.lane = node.take_lane()
        self._proxying.start(job, began)
        on_answer = partial(self._answered, job, node) if alone else None
        return lane.begin(b"%b%d\r\n\r\n" % (node.head, len(body)), body, began, on_answer)

    def drop(self, job: Waiting) -> None:
        """Nobody goes on with ``job``: its place in the queue, or its worker and the node's connection, are free.

        Nothing when it has none of them any more.
        """
        self._queued.stop(job)
        self._dispatcher.cancel(job)
        now = trio.current_time()
        lane, job.lane = job.lane, None  # never back to its node: an answer may be on its way
        self._free(job, now)
        if lane is not None:
            lane.close()
        self.wake_ready(now)  # a worker that was free already may not have been passed on yet

    async def resume(self, job: Waiting) -> Answer:
        """The answer to a request whose first try began; others follow where that fails."""
        answer, again = await self._finish(job)
        while again:
            placed = await self._place_again(job)
            if not isinstance(placed, Node):
                break  # the answer of the last node that was asked says more than that there is no other
            self.begin(job, trio.current_time())
            answer, again = await self._finish(job)
        return answer

    def settle(self, node: Node, now: float) -> None:
        """The health of ``node`` may have changed: what that means for its slots, and for who waits."""
        self._tell(node)
        self.settle_all(now)

    def settle_all(self, now: float) -> None:
        """Slots came or went: serve who can be served, and tell the rest when nobody can be any more."""
        nodes = self._dispatcher.nodes
        settle_last_resort([node.health for node in nodes])
        for node in nodes:
            node.capacity = node.health.capacity(now)
        self.wake_ready(now)
        jobs, refusal = self._dispatcher.take_hopeless()
        for job in jobs:
            self._wake(job, refusal)

    def wake_ready(self, now: float) -> None:
        """Give free slots to who waits; after a node came, or has more slots."""
        while (ready := self._dispatcher.next_ready(now)) is not None:
            self._wake(*ready)

    def _tell(self, node: Node) -> None:
        """Log a change of state, but for the probes of a node that is out: they may go on for days."""
        state, before = node.health.state, node.told
        if state is before or state is NodeState.PROBING or node.removed:
            return
        node.told = state
        if state is not NodeState.EJECTED:
            log.info("node state", node_uri=node.name, state=str(state), reason=node.health.reason)
            return
        self._metrics.ejections.inc()
        log.warning("node ejected", node_uri=node.name, reason=node.health.reason)
        node.nudge.set()

    def _answered(self, job: Waiting, node: Node, response: LaneAnswer | None) -> None:
        """The lane's callback. What failed is judged by the task, which may have to wait for another node."""
        try:
            if response is not None and response.status < _FAILED_STATUS:
                job.told(self._succeeded(job, node, response))
            else:
                job.unjudged = response
                job.told(None)
        except Exception as error:  # the boundary of one request: its client is answered, its worker free all the same
            log.exception("request failed", nodeURI=node.name)
            self._crashed(job, error)

    def _crashed(self, job: Waiting, error: Exception) -> None:
        """What a callback or a timer did for ``job`` failed: who has the job is told."""
        task, job.task = job.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Error(error))
        elif job.crashed():
            self.drop(job)

    async def _finish(self, job: Waiting) -> tuple[Answer, bool]:
        """The answer of an exchange, and whether the request should go to another node."""
        node, lane = job.node, job.lane
        if node is None or lane is None:
            raise AssertionError("there is no try to finish")
        problem: UnavailableError | None = None
        response, job.unjudged = job.unjudged, None
        try:
            if response is None:
                response = await lane.finish()
        except UnavailableError as error:
            problem = error
        if response is not None and response.status < _FAILED_STATUS:
            return self._succeeded(job, node, response), False
        return self._failed(job, node, response, problem)

    def _succeeded(self, job: Waiting, node: Node, response: LaneAnswer) -> Answer:
        now = trio.current_time()
        self._metrics.proxy_seconds.observe(job.priority, now - job.began)
        node.health.request_succeeded(now)
        self._free(job, now)
        return _answer(job, node, response, None, now)

    def _failed(
        self, job: Waiting, node: Node, response: LaneAnswer | None, problem: UnavailableError | None
    ) -> tuple[Answer, bool]:
        now = trio.current_time()
        self._metrics.proxy_seconds.observe(job.priority, now - job.began)
        self._judge(node, response, problem, job.began, now)
        self._free(job, now)
        answer = _answer(job, node, response, problem, now)
        return answer, self._may_try_again(job, node, answer, problem, now)

    def _judge(
        self, node: Node, response: LaneAnswer | None, problem: UnavailableError | None, began: float, now: float
    ) -> None:
        """Tell the node's health of a try that failed, unless that is the request's own doing."""
        if isinstance(problem, AnswerTooLarge) or (response is not None and response.status < 500):
            return
        ejections, next_event = node.health.ejections, node.health.next_event(now)
        node.health.request_failed(str(problem) if response is None else f"status {response.status}", began, now)
        if node.health.ejections != ejections or node.health.next_event(now) < next_event:
            self.settle(node, now)

    def _free(self, job: Waiting, now: float) -> None:
        """Its try is over, however it ended: its worker is for who waits."""
        node, lane = job.node, job.lane
        if node is None:
            return
        job.node = job.lane = None
        self._dispatcher.release(node)
        self._proxying.stop(job)
        if lane is not None:
            node.put_lane(lane)
        ready = self._dispatcher.next_ready(now)
        if ready is not None:
            self._wake(*ready)

    def _may_try_again(
        self, job: Waiting, node: Node, answer: Answer, problem: UnavailableError | None, now: float
    ) -> bool:
        again = (
            job.tries < self._rules.tries
            and not isinstance(problem, AnswerTooLarge)
            and now - job.created < self._rules.queue_timeout_s
        )
        reason = str(problem) if problem is not None else f"status {answer.status}"
        facts = job.log_facts()
        log.info("Request proxying failed", err=reason, tries=job.tries, shouldRetry=again, nodeURI=node.name, **facts)
        job.avoid = job.avoid | {node.name}
        return again

    async def _place_again(self, job: Waiting) -> Node | Refusal:
        placed = self._dispatcher.come_back(job, trio.current_time())
        if isinstance(placed, Node):
            job.node = placed
        if placed is not None:
            return placed
        with trio.move_on_at(job.created + self._rules.queue_timeout_s):
            return await self._wait(job)
        return Refusal.WAITED_TOO_LONG

    async def _wait(self, job: Waiting) -> Node | Refusal:
        """Until `_wake`; a cancellation takes the job out of the queue."""
        if job.result is not None:
            placed, job.result = job.result, None
            return placed
        job.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._queued.stop(job)
            self._dispatcher.cancel(job)
            return trio.lowlevel.Abort.SUCCEEDED

        result: Node | Refusal = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _wake(self, job: Waiting, result: Node | Refusal | None) -> None:
        self._queued.stop(job)
        if isinstance(result, Node):
            job.node = result
        task, job.task = job.task, None
        if task is None:
            job.result = result
        else:
            trio.lowlevel.reschedule(task, outcome.Value(result))

    async def _end_tries(self) -> None:
        while True:
            await trio.sleep_until(self._proxying.next_look(trio.current_time()))
            for job in self._proxying.take_due(trio.current_time()):
                self._end_try(job)

    def _end_try(self, job: Waiting) -> None:
        try:
            if job.lane is not None:
                job.lane.abort()
        except Exception as error:  # the boundary of one request: the others' deadlines are kept all the same
            log.exception("the end of a try failed")
            self._crashed(job, error)

    async def _end_waits(self) -> None:
        while True:
            await trio.sleep_until(self._queued.next_look(trio.current_time()))
            for job in self._queued.take_due(trio.current_time()):
                self._end_wait(job, Refusal.WAITED_TOO_LONG)

    async def _end_stuck(self) -> None:
        handover_s = self._rules.handover_timeout_s
        while True:
            await trio.sleep_until(self._dispatcher.next_stuck_look(trio.current_time(), handover_s))
            job = self._dispatcher.take_stuck(trio.current_time(), handover_s)
            if job is not None:
                self._end_wait(job, Refusal.NOT_TAKEN)

    def _end_wait(self, job: Waiting, refusal: Refusal) -> None:
        try:
            self._dispatcher.cancel(job)
            if job.node is None:
                self._wake(job, refusal)
        except Exception as error:  # as for a try
            log.exception("the end of a wait failed")
            self._crashed(job, error)


def _answer(
    job: Waiting, node: Node, response: LaneAnswer | None, problem: UnavailableError | None, now: float
) -> Answer:
    if response is not None:
        status, text, content_type = response.status, response.body, response.content_type or _JSON
    else:
        (status, text), content_type = _PROBLEMS.get(type(problem), _OTHER_PROBLEM), _TEXT
    return Answer(status, text, content_type, node.name, job.began - job.created, now - job.began, now)
