"""A hub with fake subscribers, driven step by step without an event loop."""

import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import brotli
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.positions import CurrentPayload, Resume
from appliance.fanout.catchup import Outcome, turn
from appliance.fanout.filtered import Filtered
from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.framesets import FrameCache, FrameSet
from appliance.fanout.hub import Hub, HubSettings
from appliance.fanout.marks import Mark
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.notices import Notice, Notices
from appliance.fanout.pacing import Pace
from appliance.fanout.rounds import Round
from appliance.fanout.session import Session, Stage
from tests.fanout.fakes import FakeWire, MemoryLog, messages
from tests.fanout.oracle import passes

T = TypeVar("T")

SETTINGS = HubSettings(max_lag=100, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3)


async def _inline(work: Callable[[], bytes]) -> bytes:
    return work()


def run_steps(steps: Coroutine[Any, Any, T]) -> T:
    """The result of an async function that gives way now and then, without an event loop."""
    try:
        while True:
            steps.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # that is how a coroutine returns


@dataclass(eq=False)
class Subscriber:
    """A session with its simulated socket, and what it must be sent."""

    session: Session
    wire: FakeWire
    variant: Variant
    position: int
    skip: tuple[int, int] | None
    drops: list[Session] = field(default_factory=list)
    fates_before: int = 0
    backlog: deque[FrameSet] = field(default_factory=deque)

    def expected(self, entries: Iterable[Entry]) -> list[Entry]:
        """The suffix of the log that this subscriber asked for."""
        suffix = [entry for entry in entries if entry.position > self.position]
        while self.skip is not None and suffix and suffix[0].key <= self.skip:
            del suffix[0]
        return [entry for entry in suffix if passes(_text(entry), self.session.filter)]

    def at(self, stage: Stage) -> bool:
        """Whether its session is in this stage."""
        return self.session.stage is stage

    def dropped(self) -> bool:
        """Whether the hub ended the connection."""
        return bool(self.drops)

    @property
    def received(self) -> list[bytes]:
        """The data messages, control messages left out."""
        return [message for message in messages(self.wire.sent) if not message.startswith(b'{"control"')]

    @property
    def told(self) -> list[dict[str, Any]]:
        """The control messages."""
        return [json.loads(message) for message in messages(self.wire.sent) if message.startswith(b'{"control"')]


def _text(entry: Entry) -> bytes:
    return brotli.decompress(entry.body) if entry.encoding is Encoding.BROTLI else entry.body


class Stand:
    """Hub and log, with each step of the tasks around them as a method."""

    def __init__(self, settings: HubSettings = SETTINGS) -> None:
        self.log = MemoryLog()
        self.metrics = FanoutMetrics.create(CollectorRegistry())
        self.cache = FrameCache()
        self.writers: dict[Session, bool] = {}
        self.hub = Hub(Mark(0), settings, self.metrics, self._on_behind)
        self.subscribers: list[Subscriber] = []
        self.rounds: list[Round] = []
        self._filtered: tuple[Sequence[FrameSet], Mark] | None = None  # to be served after the rounds
        self.now = 0.0

    def _on_behind(self, session: Session, full: bool) -> None:
        assert session not in self.writers, "one writer for each session"
        self.writers[session] = full

    def connect(
        self,
        resume: Resume | None = None,
        variant: Variant = Variant.TEXT,
        choose: Callable[[int], int] = lambda size: size,
        wanted: Filter | None = None,
        *,
        control: bool = False,
    ) -> Subscriber:
        """A new subscriber; its socket takes as much as ``choose`` says."""
        located = self.log.place_of(resume or CurrentPayload())
        wire, drops = FakeWire(choose), list[Session]()
        session = Session(
            wire,
            variant,
            Mark(located.position),
            located.skip_through,
            next_ping_at=self.now + 15,
            drop=lambda: drops.append(session),
            wanted=wanted,
        )
        if control:
            behind = max(0, self.hub.mark.position - located.position)
            session.notices = Notices(self.hub.board, resume or CurrentPayload(), located.position, behind)
        subscriber = Subscriber(session, wire, variant, located.position, located.skip_through, drops)
        self.subscribers.append(subscriber)
        self.hub.attach(session)
        return subscriber

    def begin(self, limit: int = 8) -> bool:
        """Start the next broadcast, if the log has news and no broadcast is under way."""
        entries = self.log.recent(self.hub.mark.position, limit) or []
        if self.delivering or not entries:
            return False
        before, batch = self.hub.mark, self.cache.get_all(entries)
        for variant, members in self.hub.begin(batch).items():
            data = b"".join(item.make(variant) for item in batch)
            self.rounds.append(Round(self.hub, members, data, entries=len(batch), before=before, after=self.hub.mark))
        if self.hub.heads.filtered:
            self._filtered = batch, before
        return True

    def _begin_filtered(self, batch: Sequence[FrameSet], before: Mark) -> None:
        """What the broadcast does for those with a filter, when the others have been served."""
        filtered = Filtered(self.hub, Pace(lambda: 0.0), _inline)
        for item in batch:
            item.examined.make()
        for (variant, numbers), members in run_steps(filtered.plan(batch)).items():
            part = [batch[number] for number in numbers]
            if not part:
                run_steps(filtered.pass_over(members, before))
                continue
            data = b"".join(item.make(variant) for item in part)
            self.rounds.append(Round(self.hub, members, data, entries=len(part), before=before, after=self.hub.mark))

    def announce(self, data: bytes, position: int | None = None) -> None:
        """What the herald does with the fate of a payload that ended here."""
        self.hub.board.post(Notice(self.log.head if position is None else position, data))
        self.tell()

    def tell(self) -> None:
        """What the herald does again when the broadcast has come as far as the news."""
        for session in list(self.hub.listeners):
            self.hub.write_control(session)

    def close_lagging(self) -> None:
        """What the sweep does about those beyond the bound, and half of it."""
        for session in self.hub.half_behind():
            self.hub.warn_lagging(session)
        for session in self.hub.beyond_bound():
            self.hub.end_if_beyond(session, self.now)

    def deliver(self, sessions: int = 1_000_000) -> None:
        """One slice of the broadcast under way: up to so many sessions."""
        ticks = iter(range(10**9))
        if self.rounds and self.rounds[0].run(lambda: next(ticks), sessions - 1):
            del self.rounds[0]
        if not self.rounds and self._filtered is not None:
            filtered, self._filtered = self._filtered, None
            self._begin_filtered(*filtered)

    @property
    def delivering(self) -> bool:
        """Whether a broadcast is under way."""
        return bool(self.rounds) or self._filtered is not None

    def write(self, subscriber: Subscriber, until: float = 10.0, *, refetch: bool = True) -> None:
        """One turn of a subscriber's writer task, if it has one."""
        session = subscriber.session
        if session not in self.writers:
            return
        if session.stage is Stage.GONE:
            outcome = Outcome.FINISHED
        else:
            ticks = iter(range(10**9))
            try:
                outcome = turn(self.hub, session, subscriber.backlog, lambda: next(ticks), until)
            except OSError:
                self.hub.lost(session)
                outcome = Outcome.FINISHED
        if outcome is Outcome.FINISHED:
            del self.writers[session]
            subscriber.backlog.clear()
        elif outcome is Outcome.NEEDS_ENTRIES or (outcome is Outcome.BLOCKED and refetch):
            entries = self.log.recent(session.mark.position, 3) or []
            subscriber.backlog = deque(self.cache.get_all(entries))
        elif outcome is Outcome.NEEDS_FRAME:
            subscriber.backlog[0].make(session.variant)
        elif outcome is Outcome.NEEDS_VERDICT:
            assert session.filter is not None
            subscriber.backlog[0].examined.make()
            subscriber.backlog[0].examined.decide(session.filter).run(lambda: 0.0, 1.0)

    def settle(self) -> None:
        """Every socket takes everything; run until nobody has anything to do."""
        for subscriber in self.subscribers:
            subscriber.wire.choose = lambda size: size
        rounds = 0
        while self.delivering or self.begin() or self.writers:
            rounds += 1
            assert rounds < 10_000, "somebody never gets done"
            self.deliver()
            for subscriber in self.subscribers:
                self.write(subscriber)
        self.tell()

    def publish(self, *keys: tuple[int, int]) -> list[Entry]:
        """Append entries and broadcast them; writers do not run."""
        added = [self.log.append(*key) for key in keys]
        while self.begin():
            while self.delivering:
                self.deliver()
        self.close_lagging()
        return added
