"""Who gets which slot: the decision alone, and the dispatcher as a playbook and under any sequence of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.lb.dispatch import Dispatcher, Job, Refusal, Slots, choose
from appliance.lb.queue import ANYWHERE, Priority, QueueRules

F, H, L = Priority.FAST_TRACK, Priority.HIGH, Priority.LOW


def slots(name: str, capacity: int, in_flight: int = 0, last_turn: int = 0) -> Slots:
    made = Slots(name, capacity)
    made.in_flight, made.last_turn = in_flight, last_turn
    return made


def job(priority: Priority = L, created: float = 0.0) -> Job:
    return Job(priority, created)


def dispatcher(*nodes: Slots, rules: QueueRules | None = None, reserve: int = 0) -> Dispatcher[Job, Slots]:
    made: Dispatcher[Job, Slots] = Dispatcher(rules or QueueRules(), fast_track_reserve=reserve)
    for node in nodes:
        made.add(node)
    return made


def test_the_node_with_the_fewest_requests_is_next() -> None:
    assert choose([slots("a", 8, 3), slots("b", 8, 1), slots("c", 8, 2)], ANYWHERE) is not None
    chosen = choose([slots("a", 8, 3), slots("b", 8, 1), slots("c", 8, 2)], ANYWHERE)
    assert chosen is not None
    assert chosen.name == "b"


def test_of_equal_nodes_the_one_that_waited_longest() -> None:
    chosen = choose([slots("a", 8, 1, last_turn=7), slots("b", 8, 1, last_turn=3)], ANYWHERE)
    assert chosen is not None
    assert chosen.name == "b"


def test_a_full_node_and_one_that_is_out_get_nothing() -> None:
    assert choose([slots("full", 2, 2), slots("out", 0)], ANYWHERE) is None
    assert choose([], ANYWHERE) is None


def test_a_node_to_avoid_is_avoided_while_there_is_another_even_a_busy_one() -> None:
    nodes = [slots("a", 8), slots("b", 8, 8)]
    assert choose(nodes, frozenset({"a"})) is None
    nodes[1].in_flight = 7
    assert choose(nodes, frozenset({"a"})) is nodes[1]


def test_a_node_to_avoid_is_better_than_none() -> None:
    nodes = [slots("a", 8), slots("out", 0)]
    assert choose(nodes, frozenset({"a"})) is nodes[0]


def test_a_reserve_leaves_every_node_one_slot() -> None:
    assert choose([slots("a", 4, 3)], ANYWHERE, reserve=1) is None
    assert choose([slots("a", 1, 0)], ANYWHERE, reserve=3) is not None


def test_requests_spread_over_nodes() -> None:
    nodes = [slots(name, 2) for name in "abc"]
    found = dispatcher(*nodes)
    taken = [found.submit(job(), 0.0) for _ in range(6)]
    assert [each.name for each in taken if isinstance(each, Slots)] == ["a", "b", "c", "a", "b", "c"]
    assert found.submit(job(), 0.0) is None


def test_a_slot_that_becomes_free_goes_to_the_first_in_order() -> None:
    node = slots("a", 1)
    found = dispatcher(node)
    assert found.submit(job(), 0.0) is node
    low, high, fast = job(L), job(H), job(F)
    for each in (low, high, fast):
        assert found.submit(each, 0.0) is None
    order = []
    while True:
        found.release(node)
        ready = found.next_ready(1.0)
        if ready is None:
            break
        order.append(ready[0])
    assert order == [fast, high, low]
    assert (node.in_flight, len(found.queue)) == (0, 0)


def test_without_nodes_and_with_all_out_it_is_refused_at_once() -> None:
    assert dispatcher().submit(job(), 0.0) is Refusal.NO_NODES
    assert dispatcher(slots("a", 0)).submit(job(), 0.0) is Refusal.ALL_OUT


def test_a_full_queue_refuses() -> None:
    found = dispatcher(slots("a", 1, 1), rules=QueueRules(limits=(0, 0, 1)))
    assert found.submit(job(), 0.0) is None
    assert found.submit(job(), 0.0) is Refusal.QUEUE_FULL
    assert found.submit(job(H), 0.0) is None


def test_a_failed_request_goes_to_another_node() -> None:
    first, second = slots("a", 1, 0), slots("b", 1, 0)
    found = dispatcher(first, second)
    failed = job()
    assert found.submit(failed, 0.0) is first
    found.release(first)
    failed.avoid = frozenset({"a"})
    assert found.come_back(failed, 0.0) is second


def test_a_failed_request_waits_for_the_other_node_and_the_slot_that_failed_serves_others() -> None:
    first, second = slots("a", 1, 0), slots("b", 1, 1)
    found = dispatcher(first, second)
    failed, other = job(), job()
    failed.avoid = frozenset({"a"})
    assert found.come_back(failed, 0.0) is None
    assert found.next_ready(0.0) is None
    assert found.submit(other, 0.0) is first
    found.release(second)
    assert found.next_ready(0.0) == (failed, second)


def test_a_failed_request_goes_back_to_its_node_when_all_others_went_out() -> None:
    first, second = slots("a", 1, 0), slots("b", 1, 1)
    found = dispatcher(first, second)
    failed = job()
    failed.avoid = frozenset({"a"})
    assert found.come_back(failed, 0.0) is None
    second.capacity = 0
    assert found.next_ready(0.0) == (failed, first)


def test_those_who_wait_hear_of_it_when_the_last_node_goes_out() -> None:
    node = slots("a", 1, 1)
    found = dispatcher(node)
    waiting = [job(priority) for priority in Priority]
    for each in waiting:
        assert found.submit(each, 0.0) is None
    assert found.take_hopeless() == ([], None)
    node.capacity = 0
    jobs, refusal = found.take_hopeless()
    assert (sorted(map(id, jobs)), refusal) == (sorted(map(id, waiting)), Refusal.ALL_OUT)
    assert found.take_hopeless() == ([], None)


def test_a_removed_node_gets_nothing_new() -> None:
    node = slots("a", 2)
    found = dispatcher(node)
    assert found.submit(job(), 0.0) is node
    found.remove(node)
    assert found.submit(job(), 0.0) is Refusal.NO_NODES
    found.release(node)
    assert node.in_flight == 0


def test_reserved_slots_are_for_fast_track_alone() -> None:
    node = slots("a", 2)
    found = dispatcher(node, reserve=1)
    assert found.submit(job(L), 0.0) is node
    assert found.submit(job(H), 0.0) is None
    assert found.submit(job(F), 0.0) is node
    waiting = job(F)
    assert found.submit(waiting, 0.0) is None
    found.release(node)
    assert found.next_ready(0.0) == (waiting, node)
    assert found.next_ready(0.0) is None  # the high request waits for the slot that is not reserved


def test_a_fast_request_that_came_back_takes_a_reserved_slot_though_one_for_all_is_free_elsewhere() -> None:
    first, second = slots("a", 1), slots("b", 2)
    found = dispatcher(first, second, reserve=1)
    failed, others = job(F), [job(F), job(F)]
    assert found.submit(failed, 0.0) is first
    assert [found.submit(each, 0.0) for each in others] == [second, second]
    found.release(first)
    failed.avoid = frozenset({"a"})
    assert found.come_back(failed, 0.0) is None
    found.release(second)
    assert found.next_ready(0.0) == (failed, second)


def test_who_is_stuck_is_told_and_who_came_just_now_is_not() -> None:
    found = dispatcher(slots("a", 1, 1))
    old, young = job(L), job(F)
    found.submit(old, 0.0)
    found.submit(young, 1.5)
    assert found.next_stuck_look(0.0, 2.0) == 2.0
    assert found.take_stuck(1.9, 2.0) is None
    assert found.take_stuck(2.0, 2.0) is old
    assert found.take_stuck(2.0, 2.0) is None
    assert found.next_stuck_look(2.0, 2.0) == 4.0


def test_a_queue_that_stands_loses_one_request_at_a_time() -> None:
    found = dispatcher(slots("a", 1, 1))
    waiting = [job(L) for _ in range(3)]
    for each in waiting:
        found.submit(each, 0.0)
    told = []
    now = 0.0
    while len(found.queue):
        now = found.next_stuck_look(now, 2.0)
        told.append((now, found.take_stuck(now, 2.0)))
        assert found.take_stuck(now, 2.0) is None
    assert told == [(2.0, waiting[0]), (4.0, waiting[1]), (6.0, waiting[2])]


def test_nobody_is_stuck_while_slots_become_free() -> None:
    node = slots("a", 1, 1)
    found = dispatcher(node)
    for _ in range(5):
        found.submit(job(L), 0.0)
    now = 1.9
    while len(found.queue):
        assert found.take_stuck(now, 2.0) is None
        found.release(node)
        assert found.next_ready(now) is not None
        now += 1.9
    assert found.next_stuck_look(now, 2.0) == now + 2.0


def test_reprs_read_well() -> None:
    assert repr(slots("a", 8, 3)) == "<Slots a: 3/8>"
    assert repr(dispatcher(slots("a", 1))) == "<Dispatcher <PriorityQueue 0 fast-track, 0 high, 0 low>, 1 nodes>"


class AnyOrderOfEvents(RuleBasedStateMachine):
    """No slot is lost or taken twice, and nobody waits beside a slot that could be used, whatever happens."""

    @initialize(capacities=st.lists(st.integers(0, 3), min_size=1, max_size=3), reserve=st.integers(0, 2))
    def begin(self, capacities: list[int], reserve: int) -> None:
        self.nodes = [slots(name, capacity) for name, capacity in zip("abc", capacities, strict=False)]
        self.full = {node.name: max(node.capacity, 1) for node in self.nodes}
        self.found = dispatcher(*self.nodes, reserve=reserve)
        self.reserve = reserve
        self.running: list[tuple[Job, Slots]] = []
        self.waiting: list[Job] = []

    @rule(priority=st.sampled_from(Priority))
    def submit(self, priority: Priority) -> None:
        one = job(priority)
        self._place(one, self.found.submit(one, 0.0))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        one, node = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.found.release(node)
        self._settle()
        if fails:
            one.avoid |= {node.name}
            self._place(one, self.found.come_back(one, 0.0))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.found.cancel(one)

    @rule(data=st.data(), out=st.booleans())
    def change_health(self, data: st.DataObject, out: bool) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        node.capacity = 0 if out else self.full[node.name]
        self._settle()

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "found"):
            return
        assert len(self.found.queue) == len(self.waiting)
        for node in self.nodes:
            assert node.in_flight == sum(each is node for _, each in self.running)
        for one in self.waiting:
            free = choose(self.nodes, one.avoid, 0 if one.priority is F else self.reserve)
            assert free is None, f"{one.priority!r} waits beside {free!r}"

    def _place(self, one: Job, placed: Slots | Refusal | None) -> None:
        if isinstance(placed, Slots):
            self.running.append((one, placed))
        elif placed is None:
            self.waiting.append(one)

    def _settle(self) -> None:
        while (ready := self.found.next_ready(0.0)) is not None:
            self.waiting.remove(ready[0])
            self.running.append(ready)
        jobs, _ = self.found.take_hopeless()
        for one in jobs:
            self.waiting.remove(one)


AnyOrderOfEvents.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
