"""Who gets the next free worker: the queue, the nodes' slots, and one decision where both meet. Pure.

A worker is a slot of a node. A request takes a slot at once when one is free and nobody waits; else it waits in the
queue, and a slot that becomes free goes to the first in order. Every method returns what the shell has to do.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Generic, TypeVar

import msgspec

from appliance.lb.queue import ANYWHERE, FAST_TRACK, Avoid, Priority, PriorityQueue, QueueRules


class Refusal(Enum):
    """Why a request gets no answer of a node. The values are what the client reads, as prio-load-balancer says it."""

    QUEUE_FULL = "queue full"
    NO_NODES = "no nodes available"
    ALL_OUT = "no healthy nodes available"
    WAITED_TOO_LONG = "request timeout hit before processing"
    NOT_TAKEN = "node timeout"
    HELD_FULL = "too many answers wait for slow clients"


class Slots:
    """The slots of one node. ``capacity`` is how many there are for now: 0 for a node that is out."""

    __slots__ = ("capacity", "in_flight", "last_turn", "name")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.in_flight = 0
        self.last_turn = 0

    def __repr__(self) -> str:
        return f"<Slots {self.name}: {self.in_flight}/{self.capacity}>"


class Job(msgspec.Struct, eq=False):
    """One request on its way. ``created`` is in seconds of the balancer's clock; compared by identity."""

    priority: Priority
    created: float
    tries: int = 0
    avoid: Avoid = ANYWHERE


JobT = TypeVar("JobT", bound=Job)
NodeT = TypeVar("NodeT", bound=Slots)


def choose(nodes: Sequence[NodeT], avoid: Avoid, reserve: int = 0) -> NodeT | None:
    """The decision: of the nodes with a free slot the one with the fewest requests; of equal ones the longest idle.

    A node in ``avoid`` only when no other node gets requests at all. ``reserve`` slots of each node are not to be
    used, but every node has one. Looks at each node once: for tens of nodes, not thousands.
    """
    if avoid and all(node.name in avoid for node in nodes if node.capacity):
        avoid = ANYWHERE
    best: NodeT | None = None
    least = turn = 0
    for node in nodes:
        in_flight = node.in_flight
        capacity = node.capacity
        if reserve and capacity > 1:
            capacity = max(capacity - reserve, 1)
        if in_flight >= capacity or (best is not None and in_flight > least):
            continue
        if best is not None and in_flight == least and node.last_turn >= turn:
            continue
        if avoid and node.name in avoid:
            continue
        best, least, turn = node, in_flight, node.last_turn
    return best


class Dispatcher(Generic[JobT, NodeT]):
    """Holds who waits and which slots are taken. ``fast_track_reserve`` slots of each node are fast-track's alone."""

    def __init__(self, rules: QueueRules, *, fast_track_reserve: int = 0) -> None:
        self.queue: PriorityQueue[JobT] = PriorityQueue(rules)
        self._nodes: list[NodeT] = []
        self._reserve = fast_track_reserve
        self._turns = 0
        self._offered = 0.0  # since when the first in order is first: the one before it went, or nobody waited

    def __repr__(self) -> str:
        return f"<Dispatcher {self.queue!r}, {len(self._nodes)} nodes>"

    @property
    def nodes(self) -> list[NodeT]:
        """Those that were added and not removed."""
        return self._nodes

    def add(self, node: NodeT) -> None:
        """Its slots count from now on; call `next_ready` until it has nothing more."""
        self._nodes.append(node)

    def remove(self, node: NodeT) -> None:
        """It gets nothing new; what runs there runs on. Its slots are released as ever."""
        self._nodes.remove(node)
        node.capacity = 0

    def refusal(self) -> Refusal | None:
        """Why nobody can be served now; None when somebody can."""
        if any(node.capacity for node in self._nodes):
            return None
        return Refusal.ALL_OUT if self._nodes else Refusal.NO_NODES

    def submit(self, job: JobT, now: float) -> NodeT | Refusal | None:
        """A new request: its slot, why it is refused, or None when it waits now."""
        fast = job.priority is FAST_TRACK
        queue = self.queue
        # While a slot is free nobody waits who could have it: only those that came back and must not go there.
        if not queue.any_fresh() or (fast and self._reserve and not queue.any_fresh_fast_track()):
            slots = choose(self._nodes, ANYWHERE, 0 if fast else self._reserve)
            if slots is not None:
                queue.note_passed(job.priority)
                return self._taken(slots)
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        if not queue:
            self._offered = now
        return None if queue.push(job, job.priority, now) else Refusal.QUEUE_FULL

    def come_back(self, job: JobT, now: float) -> NodeT | Refusal | None:
        """A request whose node failed; ``job.avoid`` has that node's name. As `submit`, but there is always room."""
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        slots = choose(self._nodes, job.avoid, self._reserve_for(job.priority))
        if slots is not None:
            return self._taken(slots)
        if not self.queue:
            self._offered = now
        self.queue.push_back(job, job.priority, job.avoid, now)
        return None

    def release(self, slots: NodeT) -> None:
        """A request is through with its slot; then call `next_ready`."""
        slots.in_flight -= 1

    def next_ready(self, now: float) -> tuple[JobT, NodeT] | None:
        """The first in order that can have a slot now, with it; None when none can."""
        queue = self.queue
        if not queue:
            return None
        shared = choose(self._nodes, ANYWHERE, self._reserve)
        if shared is None and not (self._reserve and choose(self._nodes, ANYWHERE)):
            return None
        only_fast = shared is None
        job = queue.pop(now, self._refuses, only_fast_track=only_fast)
        if job is None:
            return None
        slots = shared
        if job.avoid or slots is None:
            slots = choose(self._nodes, job.avoid, self._reserve_for(job.priority))
        if slots is None:
            raise AssertionError(f"{job.priority!r} was taken from the queue without a slot")
        self._offered = now
        return job, self._taken(slots)

    def cancel(self, job: JobT) -> bool:
        """Its client went away, or its time in the queue is over; False when it did not wait any more."""
        return self.queue.cancel(job, job.priority)

    def take_stuck(self, now: float, handover_s: float) -> JobT | None:
        """The first that has waited for ``handover_s`` itself, when the queue has not moved in that time.

        The next one's time begins with that: a queue that stands loses one request every ``handover_s``.
        """
        if now - self._offered < handover_s:
            return None
        job = self.queue.pop_older(now - handover_s)
        if job is not None:
            self._offered = now
        return job

    def next_stuck_look(self, now: float, handover_s: float) -> float:
        """When to call `take_stuck` again."""
        oldest = self.queue.oldest_of_all()
        if oldest is None:
            return now + handover_s
        return max(oldest, self._offered) + handover_s

    def take_hopeless(self) -> tuple[list[JobT], Refusal | None]:
        """All that wait, and why, when no node gets requests any more; nothing otherwise."""
        refusal = self.refusal()
        return (self.queue.drain(), refusal) if refusal is not None and self.queue else ([], None)

    def _reserve_for(self, priority: Priority) -> int:
        return 0 if priority is FAST_TRACK else self._reserve

    def _refuses(self, priority: Priority, avoid: Avoid) -> bool:
        return choose(self._nodes, avoid, self._reserve_for(priority)) is None

    def _taken(self, slots: NodeT) -> NodeT:
        slots.in_flight += 1
        self._turns += 1
        slots.last_turn = self._turns
        return slots
