"""The promise, for any history: per connection no duplicate, no gap, log order, and only whole frames.

A simulated world of subscribers whose sockets take any number of bytes at a time, with connects, resumes,
slow readers, drops, pings, closes, reorgs and holes in the log's positions, against the simplest oracle:
what a subscriber has received is a prefix of the log's entries after the place that it asked for, those that pass its
filter. Control messages come only to those who asked for them, and behind what they are about.

Twice: as a state machine, whose failures shrink to a few steps, and as long crowded histories, which reach
the rare coincidences.
"""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fanout.world import World

RANDOM = st.integers(0, 2**32).map(random.Random)


class Subscribers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(rng=RANDOM, subscribers=st.integers(1, 4))
    def some_are_here(self, rng: random.Random, subscribers: int) -> None:
        for _ in range(subscribers):
            self.world.connect(rng)

    @rule(rng=RANDOM, count=st.integers(1, 3), new=st.booleans())
    def flashblocks(self, rng: random.Random, count: int, new: bool) -> None:
        if new:
            self.world.next_payload(rng)
        for _ in range(count):
            self.world.flashblock(rng)

    @rule(rng=RANDOM, steps=st.integers(1, 6))
    def broadcast(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            self.world.broadcast(rng)

    @rule(rng=RANDOM, steps=st.integers(1, 6))
    def write(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            self.world.write(rng)

    @rule(rng=RANDOM)
    def connect(self, rng: random.Random) -> None:
        self.world.connect(rng)

    @rule(rng=RANDOM)
    def change_pace(self, rng: random.Random) -> None:
        self.world.change_pace(rng)

    @rule(rng=RANDOM)
    def control_frames(self, rng: random.Random) -> None:
        self.world.fate(rng)
        self.world.ping_us(rng)
        self.world.time_passes(rng)

    @rule(rng=RANDOM)
    def leave(self, rng: random.Random) -> None:
        self.world.leave(rng)
        self.world.tasks_of_the_dropped_end()

    @invariant()
    def the_promise_holds(self) -> None:
        self.world.check_streams()
        self.world.check_groups()

    def teardown(self) -> None:
        self.world.check_end()


TestPromise = Subscribers.TestCase
TestPromise.settings = settings(max_examples=50, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])


@settings(max_examples=60)
@given(RANDOM)
def test_a_long_crowded_history_keeps_the_promise(rng: random.Random) -> None:
    world = World()
    actions = {
        world.flashblock: 12,
        world.next_payload: 3,
        world.broadcast: 30,
        world.write: 40,
        world.connect: 4,
        world.change_pace: 6,
        world.ping_us: 6,
        world.fate: 4,
        world.time_passes: 1,
        world.leave: 1,
    }
    for number, action in enumerate(rng.choices(list(actions), list(actions.values()), k=300)):
        action(rng)
        world.check_groups()
        if number % 10 == 0:
            world.tasks_of_the_dropped_end()
            world.check_streams()
    if rng.random() < 0.3:
        world.host_stops(rng)
    world.check_end()
