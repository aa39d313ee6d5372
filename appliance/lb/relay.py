"""A request's way: wait for a worker, ask its node, try another one, with deadlines. The shell around `dispatch`.

A request that finds a free worker and a connection to its node goes out by `begin`, without a task, and its answer
comes by a callback. What is not over with that goes on by `resume`, and what has to wait by `complete`, both in the
task of the client's connection: no other task, no channel. One that waits is woken by who frees its worker. When
the client goes away (`give_up`, or the task is cancelled where it stands), its place in the queue, or its worker and
the connection to the node, are free at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

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
    """A job and, while it waits, the task to wake; ``result`` is for one that has not come to wait yet."""

    __slots__ = ("result", "task")

    def __init__(self, priority: Priority, created: float) -> None:
        super().__init__(priority, created)
        self.task: trio.lowlevel.Task | None = None
        self.result: Node | Refusal | None = None


class Answer:
    """What came of a request, and when (``at``, trio's time). ``node`` is as it is shown.

    Durations in seconds; ``proxy_s`` is of the last try.
    """

    __slots__ = ("at", "body", "content_type", "node", "proxy_s", "queue_s", "status")

    def __init__(self, status: int, body: bytes, content_type: bytes, attempt: "Attempt", at: float) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.node = attempt.node.name
        self.queue_s = attempt.began - attempt.job.created
        self.proxy_s = at - attempt.began
        self.at = at


class Attempt:
    """One request at one node. ``under_way``: ``told`` is going to be called. ``failed`` was read, but not judged."""

    __slots__ = ("began", "body", "failed", "job", "lane", "node", "told", "under_way")

    def __init__(self, job: Waiting, node: Node, body: bytes, told: "Told | None", began: float) -> None:
        self.job = job
        self.node = node
        self.body = body
        self.told = told
        self.began = began
        self.lane = node.take_lane()
        self.under_way = False
        self.failed: LaneAnswer | None = None


Told: TypeAlias = Callable[[Attempt, Answer | None], None]
"""What `Relay.begin` calls: with the answer, or None when `Relay.resume` has to go on in a task."""


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
        if isinstance(placed, Node):
            return await self.resume(self.begin(job, placed, body, trio.current_time()))
        self._metrics.refused[placed].inc()
        return placed

    def begin(self, job: Waiting, node: Node, body: bytes, began: float, told: Told | None = None) -> Attempt:
        """Send the request, as far as that needs no waiting; `resume` it at once when it is not ``under_way``."""
        if job.tries:
            self._metrics.retries.inc()
        else:
            self._metrics.queue_wait.observe(job.priority, began - job.created)
        job.tries += 1
        attempt = Attempt(job, node, body, told, began)
        self._proxying.start(attempt.lane, began)
        on_answer = None if told is None else partial(self._answered, attempt)
        attempt.under_way = attempt.lane.begin(b"%b%d\r\n\r\n" % (node.head, len(body)), body, began, on_answer)
        return attempt

    def give_up(self, attempt: Attempt) -> None:
        """Nobody wants the answer that is under way."""
        attempt.lane.close()
        self._free(attempt, trio.current_time())

    async def resume(self, attempt: Attempt) -> Answer:
        """The answer to a request whose first try began; others follow where that fails."""
        answer, again = await self._finish(attempt)
        while again:
            placed = await self._place_again(attempt.job)
            if not isinstance(placed, Node):
                break  # the answer of the last node that was asked says more than that there is no other
            attempt = self.begin(attempt.job, placed, attempt.body, trio.current_time())
            answer, again = await self._finish(attempt)
        return answer

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

    def _answered(self, attempt: Attempt, response: LaneAnswer | None) -> None:
        """The lane's callback. What failed is judged by the task, which may have to wait for another node."""
        if attempt.told is None:
            raise AssertionError("who is not told sends no callback")
        if response is not None and response.status < _FAILED_STATUS:
            attempt.told(attempt, self._succeeded(attempt, response))
        else:
            attempt.failed = response
            attempt.told(attempt, None)

    async def _finish(self, attempt: Attempt) -> tuple[Answer, bool]:
        """The answer of an exchange, and whether the request should go to another node."""
        problem: UnavailableError | None = None
        response = attempt.failed
        try:
            if response is None:
                response = await attempt.lane.finish()
        except UnavailableError as error:
            problem = error
        except BaseException:
            self._free(attempt, trio.current_time())
            raise
        if response is not None and response.status < _FAILED_STATUS:
            return self._succeeded(attempt, response), False
        return self._failed(attempt, response, problem)

    def _succeeded(self, attempt: Attempt, response: LaneAnswer) -> Answer:
        now = trio.current_time()
        self._metrics.proxy_seconds.observe(attempt.job.priority, now - attempt.began)
        attempt.node.health.request_succeeded()
        self._free(attempt, now)
        return _answer(attempt, response, None, now)

    def _failed(
        self, attempt: Attempt, response: LaneAnswer | None, problem: UnavailableError | None
    ) -> tuple[Answer, bool]:
        now = trio.current_time()
        self._metrics.proxy_seconds.observe(attempt.job.priority, now - attempt.began)
        self._judge(attempt.node, response, problem, now)
        self._free(attempt, now)
        answer = _answer(attempt, response, problem, now)
        return answer, self._may_try_again(attempt.job, attempt.node, answer, problem, now)

    def _judge(self, node: Node, response: LaneAnswer | None, problem: UnavailableError | None, now: float) -> None:
        """Tell the node's health of a try that failed, unless that is the request's own doing."""
        if isinstance(problem, AnswerTooLarge) or (response is not None and response.status < 500):
            return
        node.health.request_failed(str(problem) if response is None else f"status {response.status}", now)
        self.settle(node, now)

    def _free(self, attempt: Attempt, now: float) -> None:
        """The exchange is over, however it ended: its worker is for who waits."""
        self._proxying.stop(attempt.lane)
        attempt.node.put_lane(attempt.lane)
        self._dispatcher.release(attempt.node)
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
        task, job.task = job.task, None
        self._queued.stop(job)
        if task is None:
            job.result = result
        else:
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


def _answer(attempt: Attempt, response: LaneAnswer | None, problem: UnavailableError | None, now: float) -> Answer:
    if response is not None:
        return Answer(response.status, response.body, response.content_type or _JSON, attempt, now)
    status, text = _PROBLEMS.get(type(problem), _OTHER_PROBLEM)
    return Answer(status, text, b"text/plain; charset=utf-8", attempt, now)
