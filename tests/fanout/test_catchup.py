"""Writer tasks: many at once without starving anybody, and an end in words where they cannot go on."""

import json
import socket

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Encoding
from appliance.fanout.backlog import Backlog
from appliance.fanout.catchup import CatchUp
from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.framesets import FrameCache
from appliance.fanout.hub import Hub, HubSettings
from appliance.fanout.marks import Mark
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.ports import Wire
from appliance.fanout.session import Session, Stage
from appliance.fanout.turns import Turns
from tests.fanout.fakes import FakeWire, MemoryLog, messages, parse_frames
from tests.fanout.serving import close_of

SETTINGS = HubSettings(max_lag=1000, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3)


class Stepping:
    """A clock by which a turn is over after ``sends`` looks at it."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Rig:
    """Hub, log and writer tasks. The log's entries count as broadcast."""

    def __init__(self, nursery: trio.Nursery, log: MemoryLog, *, clock_step: float = 0.0) -> None:
        self.log = log
        self.metrics = FanoutMetrics.create(CollectorRegistry())
        mark = Mark(log.head, log.entries[-1].key)
        self.hub = Hub(mark, SETTINGS, self.metrics, self._on_behind)
        backlog = Backlog(log, FrameCache())
        self.turns = Turns(Stepping(clock_step) if clock_step else lambda: 0.0)
        self.catch_up = CatchUp(self.hub, backlog, self.turns, _inline, nursery.start_soon)
        self._nursery = nursery
        self.dropped: list[Session] = []

    def _on_behind(self, session: Session, full: bool) -> None:
        self.catch_up.add(session, full)
        if self.catch_up.queued == 1:
            self._nursery.start_soon(self._serve_queue)

    async def _serve_queue(self) -> None:
        """What the plane's task does for ever, until nobody is queued."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.catch_up.run)
            while self.catch_up.queued:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    def connect(
        self, wire: Wire, position: int = 0, variant: Variant = Variant.TEXT, wanted: Filter | None = None
    ) -> Session:
        session = Session(
            wire,
            variant,
            Mark(position),
            None,
            next_ping_at=15,
            drop=lambda: self.dropped.append(session),
            wanted=wanted,
        )
        self.hub.attach(session)
        return session


async def _inline(work: object) -> bytes:
    await trio.lowlevel.checkpoint()
    assert callable(work)
    return bytes(work())


def filled(entries: int, tail: int = 10_000) -> MemoryLog:
    log = MemoryLog(tail=tail)
    for index in range(entries):
        log.append(1, index)
    return log


async def test_a_session_is_served_to_the_head_from_disk_and_memory() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(100, tail=10))
        wire = FakeWire()
        session = rig.connect(wire)
    assert session.stage is Stage.HEAD
    assert messages(wire.sent) == [entry.body for entry in rig.log.entries]
    assert 0 < rig.log.reads <= 4


async def test_frames_that_take_work_are_made_outside_the_turn() -> None:
    log = MemoryLog()
    for index in range(3):
        log.append(1, index, body=b"text %d" % index, encoding=Encoding.TEXT)
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, log)
        wire = FakeWire()
        session = rig.connect(wire, variant=Variant.BROTLI)
    assert session.stage is Stage.HEAD
    assert [frame.opcode for frame in parse_frames(wire.sent)[0]] == [2, 2, 2]


async def test_thousands_who_catch_up_leave_the_loop_to_others() -> None:
    wires = [FakeWire() for _ in range(1000)]
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(10), clock_step=0.000_1)  # five looks make a slice: about five of them
        for wire in wires:
            rig.connect(wire)
        before, most = 0, 0
        while rig.hub.statistics()["catching_up"]:
            await trio.lowlevel.checkpoint()
            sends = rig.metrics.sent_messages.value
            most, before = max(most, sends - before), sends
    assert all(len(messages(wire.sent)) == 10 for wire in wires)
    # A pass is shuffled, so two passes' slices may fall between two looks.
    assert most <= 2 * 6 * 10


async def test_turns_go_round_so_that_nobody_waits_for_the_first_to_finish() -> None:
    wires = [FakeWire() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(200), clock_step=0.000_1)
        for wire in wires:
            rig.connect(wire)
        while not all(wire.sent for wire in wires):
            await trio.lowlevel.checkpoint()
        assert max(len(messages(wire.sent)) for wire in wires) < 200


async def test_a_full_socket_waits_without_holding_entries_or_a_turn() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        log = MemoryLog()
        for index in range(50):
            log.append(1, index, body=b"%02d" % index + b"x" * 50_000)
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, log)
            rig.connect(left)
            others = [FakeWire() for _ in range(6)]
            for wire in others:
                rig.connect(wire)
            await trio.testing.wait_all_tasks_blocked()
            assert all(len(messages(wire.sent)) == 50 for wire in others)
            assert rig.hub.statistics()["catching_up"] == 1
            received = bytearray()
            while len(messages(received)) < 50:
                await trio.lowlevel.wait_readable(right)
                received += right.recv(1 << 20)
        assert messages(received) == [entry.body for entry in log.entries]


async def test_room_in_the_socket_is_a_sign_of_life() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        log = MemoryLog()
        log.append(1, 0, body=b"x" * 1_000_000)
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, log)
            session = rig.connect(left)
            await trio.testing.wait_all_tasks_blocked()
            rig.hub.sweep(session, now=15)
            waited = [session.awaiting_pong_since]
            right.settimeout(5)
            size = 0
            while size < 1_000_000:
                size += len(right.recv(1 << 20))
                await trio.testing.wait_all_tasks_blocked()
            assert [*waited, session.awaiting_pong_since] == [15, None]
            nursery.cancel_scope.cancel()


async def test_what_retention_took_meanwhile_ends_the_subscription_with_its_place() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(10, tail=1))
        rig.log.prune(5)
        wire = FakeWire()
        session = rig.connect(wire, position=2)
        session.mark = Mark(2, (1, 1))
    frames, _ = parse_frames(wire.sent)
    assert [close_of(frame) for frame in frames] == [(1013, "lagged block_number=1 flashblock_index=1")]
    assert rig.metrics.lagged_connections.value == 1


async def test_a_log_that_cannot_be_read_ends_the_subscription() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(10, tail=1))
        rig.log.broken = True
        wire = FakeWire()
        rig.connect(wire)
    frames, _ = parse_frames(wire.sent)
    assert [close_of(frame) for frame in frames] == [(1011, "the log cannot be read")]


async def test_a_broken_connection_ends_its_writer() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(10))
        wire = FakeWire()
        wire.error = ConnectionResetError()
        session = rig.connect(wire)
    assert rig.dropped == [session]
    assert rig.metrics.failed_messages.value == 1


async def test_a_bug_ends_one_connection_and_no_other() -> None:
    class Broken(FakeWire):
        def send(self, data: bytes | memoryview, /) -> int:
            raise RuntimeError("a bug")

    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, filled(3))
        wire = FakeWire()
        unlucky, lucky = rig.connect(Broken()), rig.connect(wire)
    assert rig.dropped == [unlucky]
    assert lucky.stage is Stage.HEAD


async def test_a_session_that_goes_away_ends_its_writer() -> None:
    left, right = socket.socketpair()
    with right:
        left.setblocking(False)
        log = MemoryLog()
        log.append(1, 0, body=b"x" * 1_000_000)
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, log)
            session = rig.connect(left)
            await trio.testing.wait_all_tasks_blocked()
            rig.hub.detach(session)
            trio.lowlevel.notify_closing(left)
            left.close()
        assert rig.metrics.failed_messages.value == 0
        assert rig.dropped == []


async def test_many_long_searches_do_not_hold_up_one_that_needs_none() -> None:
    """A subscriber that came back waited 1.5 s for 300 others with 256 addresses each, 45 ms without them."""
    log = MemoryLog()
    for index in range(3):
        log.append(1, index, body=json.dumps({"diff": {"transactions": ["0x" + bytes(4096).hex()] * 5}}).encode())
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, log, clock_step=0.000_1)  # a search takes several turns
        for number in range(100):
            own = (1000 * number + each for each in range(1, 200))
            rig.connect(FakeWire(), wanted=Filter(each.to_bytes(20, "big") for each in own))
        while rig.catch_up.queued:  # until all of them are at their searches
            await trio.lowlevel.checkpoint()
        plain = rig.connect(FakeWire())
        passes = 0
        while plain.stage is not Stage.HEAD:
            await trio.lowlevel.checkpoint()
            passes += 1
        nursery.cancel_scope.cancel()
    assert passes < 30
