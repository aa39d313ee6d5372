"""A request's way: wait for a worker, ask its node, try another one, with deadlines. The shell around `dispatch`.

It runs in the task of the client's connection: no other task, no channel. A request that finds a free worker costs one
turn of the loop; one that waits is woken by the task that frees its worker. When the client goes away the task is
cancelled where it stands: its place in the queue, or its worker and the connection to the node, are free at once.
"""

from dataclasses import dataclass
from typing import Final

import outcome
import trio

from appliance.domain.errors import UnavailableError
from appliance.lb.deadlines import Deadlines
from appliance.lb.dispatch import Dispatcher, Job, Refusal
from appliance.lb.metrics import LbMetrics
from appliance.lb.node import Node
from appliance.lb.queue import Priority
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
_OTHER_PROBLEM: Final = (502, b"the connection to the node failed\n")


@dataclass(frozen=True, slots=True)
class RelayRules:
    """Times in seconds. ``tries`` counts the first one."""

    tries: int = 3
    queue_timeout_s: float = 5.0
    handover_timeout_s: float = 2.0
    proxy_timeout_s: float = 3.0


class Waiting(Job):
    """A job and, while it waits, the task to wake."""

    __slots__ = ("task",)

    def __init__(self, priority: Priority, created: float) -> None:
        super().__init__(priority, created)
        self.task: trio.lowlevel.Task | None = None


class Answer:
    """What came of a request. ``node`` is as it is shown. Durations in seconds; ``proxy_s`` is of the last try."""

    __slots__ = ("body", "content_type", "node", "proxy_s", "queue_s", "status")

    def __init__(
        self, status: int, body: bytes, content_type: bytes, node: str, queue_s: float, proxy_s: float
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.node = node
        self.queue_s = queue_s
        self.proxy_s = proxy_s


class Relay:
    """Brings requests to nodes. `run` keeps the time; nodes come and go by `add` and `remove`."""

    def __init__(self, dispatcher: Dispatcher[Waiting, Node], rules: RelayRules, metrics: LbMetrics) -> None:
        self._dispatcher = dispatcher
        self._rules = rules
        self._metrics = metrics
        self._queued: Deadlines[Waiting] = Deadlines(rules.queue_timeout_s)
        self._proxying: Deadlines[HttpLane] = Deadlines(rules.proxy_timeout_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the deadlines until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_tries)
            nursery.start_soon(self._end_waits)
            nursery.start_soon(self._end_stuck)
            task_status.started()

    def submit(self, job: Waiting) -> Node | Refusal | None:
        """Take a request in: its node, why it is refused, or None when it waits. Then call `complete` at once."""
        placed = self._dispatcher.submit(job, job.created)
        if placed is None:
            self._queued.start(job, job.created)
        return placed

    async def complete(self, job: Waiting, placed: Node | Refusal | None, body: bytes) -> Answer | Refusal:
        """A node's answer, or what stands for it when all tries failed; a refusal when no node was asked."""
        if placed is None:
            placed = await self._wait(job)
        answer: Answer | None = None
        while isinstance(placed, Node):
            answer, again = await self._try(job, placed, body)
            if not again:
                return answer
            placed = await self._place_again(job)
        if answer is not None:
            return answer  # of the last node that was asked: it says more than that there is no other
        self._metrics.refused[placed].inc()
        return placed

    def settle(self, node: Node, now: float) -> None:
        """The health of ``node`` may have changed: what that means for its slots, and for who waits."""
        before, node.capacity = node.capacity, 0 if node.removed else node.health.capacity(now)
        if node.capacity == before:
            return
        if not node.capacity and not node.removed:
            self._ejected(node)
        self.settle_all(now)

    def settle_all(self, now: float) -> None:
        """Slots came or went: serve who can be served, and tell the rest when nobody can be any more."""
        self.wake_ready(now)
        jobs, refusal = self._dispatcher.take_hopeless()
        for job in jobs:
            self._wake(job, refusal)

    def wake_ready(self, now: float) -> None:
        """Give free slots to who waits; after a node came, or has more slots."""
        while (ready := self._dispatcher.next_ready(now)) is not None:
            self._wake(*ready)

    def _ejected(self, node: Node) -> None:
        self._metrics.ejections.inc()
        log.warning("node ejected", node_uri=node.name, reason=node.health.reason)
        node.nudge.set()

    async def _try(self, job: Waiting, node: Node, body: bytes) -> tuple[Answer, bool]:
        """One exchange with one node, and whether the request should go to another one."""
        began = trio.current_time()
        if job.tries:
            self._metrics.retries.inc()
        else:
            self._metrics.queue_wait.observe(job.priority, began - job.created)
        job.tries += 1
        lane = node.take_lane()
        self._proxying.start(lane, began)
        problem: UnavailableError | None = None
        response: LaneAnswer | None = None
        try:
            response = await lane.exchange(b"%b%d\r\n\r\n" % (node.head, len(body)), body, began)
        except UnavailableError as error:
            problem = error
        except BaseException:
            self._free(node, lane, trio.current_time())
            raise
        now = trio.current_time()
        took_s = now - began
        self._metrics.proxy_seconds.observe(job.priority, took_s)
        if response is not None and response.status < 400:
            node.health.request_succeeded()
            self._free(node, lane, now)
            kind = response.content_type or _JSON
            return Answer(response.status, response.body, kind, node.name, began - job.created, took_s), False
        self._judge(node, response, problem, now)
        self._free(node, lane, now)
        answer = _answer(node, response, problem, began - job.created, took_s)
        return answer, self._may_try_again(job, node, answer, problem, now)

    def _judge(self, node: Node, response: LaneAnswer | None, problem: UnavailableError | None, now: float) -> None:
        """Tell the node's health of a try that failed, unless that is the request's own doing."""
        if isinstance(problem, AnswerTooLarge) or (response is not None and response.status < 500):
            return
        node.health.request_failed(str(problem) if response is None else f"status {response.status}", now)
        self.settle(node, now)

    def _free(self, node: Node, lane: HttpLane, now: float) -> None:
        self._proxying.stop(lane)
        node.put_lane(lane)
        self._dispatcher.release(node)
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
        log.info("Request proxying failed", err=reason, tries=job.tries, shouldRetry=again, nodeURI=node.name)
        job.avoid = job.avoid | {node.name}
        return again

    async def _place_again(self, job: Waiting) -> Node | Refusal:
        placed = self._dispatcher.come_back(job, trio.current_time())
        if placed is not None:
            return placed
        with trio.move_on_at(job.created + self._rules.queue_timeout_s):
            return await self._wait(job)
        return Refusal.WAITED_TOO_LONG

    async def _wait(self, job: Waiting) -> Node | Refusal:
        """Until `_wake`; a cancellation takes the job out of the queue."""
        job.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._queued.stop(job)
            self._dispatcher.cancel(job)
            return trio.lowlevel.Abort.SUCCEEDED

        result: Node | Refusal = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _wake(self, job: Waiting, result: Node | Refusal | None) -> None:
        task, job.task = job.task, None
        if task is None:
            raise AssertionError("who waits has a task")
        self._queued.stop(job)
        trio.lowlevel.reschedule(task, outcome.Value(result))

    async def _end_tries(self) -> None:
        while True:
            await trio.sleep_until(self._proxying.next_look(trio.current_time()))
            for lane in self._proxying.take_due(trio.current_time()):
                lane.abort()

    async def _end_waits(self) -> None:
        while True:
            await trio.sleep_until(self._queued.next_look(trio.current_time()))
            for job in self._queued.take_due(trio.current_time()):
                if self._dispatcher.cancel(job):
                    self._wake(job, Refusal.WAITED_TOO_LONG)

    async def _end_stuck(self) -> None:
        handover_s = self._rules.handover_timeout_s
        while True:
            await trio.sleep_until(self._dispatcher.next_stuck_look(trio.current_time(), handover_s))
            job = self._dispatcher.take_stuck(trio.current_time(), handover_s)
            if job is not None:
                self._wake(job, Refusal.NOT_TAKEN)


def _answer(
    node: Node, response: LaneAnswer | None, problem: UnavailableError | None, queue_s: float, proxy_s: float
) -> Answer:
    if response is not None:
        return Answer(response.status, response.body, response.content_type or _JSON, node.name, queue_s, proxy_s)
    status, text = _PROBLEMS.get(type(problem), _OTHER_PROBLEM)
    return Answer(status, text, b"text/plain; charset=utf-8", node.name, queue_s, proxy_s)
