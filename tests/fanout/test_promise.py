"""The promise, for any history: per connection no duplicate, no gap, log order, and only whole frames.

A simulated world of subscribers whose sockets take any number of bytes at a time, with connects, resumes,
slow readers, drops, pings, closes, reorgs and holes in the log's positions, against the simplest oracle:
what a subscriber has received is a prefix of the log's entries after the place that it asked for.
"""

import random

import brotli
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.frames import Variant
from appliance.fanout.hub import HubSettings
from appliance.fanout.session import Stage
from tests.fanout.fakes import fitful, parse_frames, payload_id
from tests.fanout.support import Stand, Subscriber

PICK = st.integers(0, 10**6)
SIZES = st.sampled_from([0, 10, 90, 126, 400, 66_000])


class Subscribers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stand = Stand(HubSettings(max_lag=6, ping_interval_s=15, pong_timeout_s=40, close_timeout_s=3))
        self.block, self.index, self.payload = 1, -1, 1

    def one(self, pick: int) -> Subscriber:
        return self.stand.subscribers[pick % len(self.stand.subscribers)]

    @property
    def anyone(self) -> bool:
        return bool(self.stand.subscribers)

    @initialize(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=5))
    def some_are_here(self, seeds: list[int]) -> None:
        for number, seed in enumerate(seeds):
            variant = Variant.BROTLI if number % 3 == 2 else Variant.TEXT
            self.stand.connect(CurrentPayload(), variant, fitful(random.Random(seed)))

    @rule(seed=st.integers(0, 2**32), steps=st.integers(1, 12))
    def all_tasks_run_a_little(self, seed: int, steps: int) -> None:
        rng = random.Random(seed)
        for _ in range(steps):
            if self.anyone and rng.random() < 0.6:
                self.stand.write(rng.choice(self.stand.subscribers), until=rng.randint(0, 4))
            elif self.stand.rounds:
                self.stand.deliver(rng.randint(1, 3))
            else:
                self.stand.begin(rng.randint(1, 3))

    # The log.

    @rule(size=SIZES, packed=st.booleans(), hole=st.integers(0, 2))
    def flashblock(self, size: int, packed: bool, hole: int) -> None:
        self.index += 1
        text = f"{self.payload}/{self.index}:".encode() + b"x" * size
        body = brotli.compress(text, quality=0) if packed else text
        encoding = Encoding.BROTLI if packed else Encoding.TEXT
        self.stand.log.append(self.block, self.index, body=body, hole=hole, encoding=encoding, payload=self.payload)

    @precondition(lambda self: self.index >= 0)
    @rule(reorg=st.integers(0, 3))
    def next_payload(self, reorg: int) -> None:
        self.payload += 1
        self.block, self.index = max(1, self.block + (1 if reorg else -1)), -1

    # The broadcast.

    @rule(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        self.stand.begin(limit)

    @rule(sessions=st.integers(1, 4))
    def deliver(self, sessions: int) -> None:
        self.stand.deliver(sessions)

    # Subscribers.

    @rule(
        block=st.integers(-2, 3),
        index=st.integers(-1, 4),
        way=st.sampled_from(["current", "block", "payload"]),
        variant=st.sampled_from(Variant),
        seed=st.integers(0, 2**32),
        steady=st.booleans(),
    )
    def connect(self, block: int, index: int, way: str, variant: Variant, seed: int, steady: bool) -> None:
        resume: Resume = CurrentPayload()
        if way == "block":
            resume = AfterBlock(max(0, self.block + block), index)
        elif way == "payload" and self.index >= 0:
            resume = AfterPayload(payload_id(self.payload), index)
        choose = (lambda size: size) if steady else fitful(random.Random(seed))
        self.stand.connect(resume, variant, choose)

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK, sends=st.integers(1, 6), refetch=st.booleans())
    def write(self, pick: int, sends: int, refetch: bool) -> None:
        self.stand.write(self.one(pick), until=sends, refetch=refetch)

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK)
    def stop_reading(self, pick: int) -> None:
        self.one(pick).wire.choose = lambda size: 0

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK, most=st.integers(1, 2000))
    def read_on(self, pick: int, most: int) -> None:
        self.one(pick).wire.choose = lambda size: min(size, most)

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK, payload=st.binary(max_size=8))
    def ping_us(self, pick: int, payload: bytes) -> None:
        session = self.one(pick).session
        if session.stage not in (Stage.GONE, Stage.CLOSING):
            session.heard()
            session.queue_pong(payload)
            self.stand.hub.write_control(session)

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK, silent=st.booleans())
    def time_passes(self, pick: int, silent: bool) -> None:
        self.stand.now += 7
        for session in list(self.stand.hub.sessions):
            self.stand.hub.sweep(session, self.stand.now)
            if not silent:
                session.heard()

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK, theirs=st.booleans())
    def close(self, pick: int, theirs: bool) -> None:
        session = self.one(pick).session
        if theirs:
            session.close_received = True
        self.stand.hub.close(session, 1000, "", self.stand.now)

    @precondition(lambda self: self.anyone)
    @rule(pick=PICK)
    def break_connection(self, pick: int) -> None:
        self.one(pick).wire.error = BrokenPipeError()

    @precondition(lambda self: any(subscriber.dropped() for subscriber in self.stand.subscribers))
    @rule()
    def tasks_of_the_dropped_end(self) -> None:
        for subscriber in self.stand.subscribers:
            if subscriber.dropped():
                self.stand.hub.detach(subscriber.session)

    # What must hold at any time.

    @invariant()
    def nobody_got_a_duplicate_a_gap_or_another_order(self) -> None:
        for subscriber in self.stand.subscribers:
            expected = [_text(entry) for entry in subscriber.expected(self.stand.log.entries)]
            received = _received(subscriber)
            assert received == expected[: len(received)]

    @invariant()
    def everybody_is_in_the_group_of_its_stage(self) -> None:
        hub = self.stand.hub
        heads = {session for group in hub._heads.values() for session in group}
        for session in hub.sessions:
            assert (session in heads) == (session.stage is Stage.HEAD)
            assert (session in hub._waiting) == (session.stage is Stage.WAITING)
            assert (session in hub._catching_up) == (session.stage is Stage.CATCHING_UP)
            assert session.has_writer == (session in self.stand.writers) or session.stage is Stage.CLOSING
            if session.stage in (Stage.HEAD, Stage.WAITING):
                assert session.at_boundary
        assert heads | hub._waiting | hub._catching_up <= hub.sessions
        if not self.stand.rounds:
            assert all(session.mark is hub.mark for session in heads)

    def teardown(self) -> None:
        """Whoever is still connected ends up with the whole suffix."""
        for subscriber in self.stand.subscribers:
            if subscriber.dropped():
                self.stand.hub.detach(subscriber.session)
        self.stand.settle()
        self.nobody_got_a_duplicate_a_gap_or_another_order()
        for subscriber in self.stand.subscribers:
            if subscriber.session.stage in (Stage.HEAD, Stage.WAITING):
                expected = subscriber.expected(self.stand.log.entries)
                assert _received(subscriber) == [_text(entry) for entry in expected]
            else:
                assert subscriber.session.stage in (Stage.GONE, Stage.CLOSING)


def _text(entry: Entry) -> bytes:
    return brotli.decompress(entry.body) if entry.encoding is Encoding.BROTLI else entry.body


def _received(subscriber: Subscriber) -> list[bytes]:
    """The JSON texts that arrived whole; checks that nothing follows a close."""
    frames, _ = parse_frames(subscriber.wire.sent)
    closes = [number for number, frame in enumerate(frames) if frame.opcode == 0x8]
    assert closes in ([], [len(frames) - 1])
    expected_opcode = 0x1 if subscriber.variant is Variant.TEXT else 0x2
    data = [frame for frame in frames if frame.opcode < 0x8]
    assert all(frame.opcode == expected_opcode for frame in data)
    unpack = brotli.decompress if subscriber.variant is Variant.BROTLI else bytes
    return [unpack(frame.payload) for frame in data]


TestPromise = Subscribers.TestCase
TestPromise.settings = settings(
    max_examples=80, stateful_step_count=70, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
