"""A hub with fake subscribers, driven step by step without an event loop."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Entry
from appliance.domain.positions import CurrentPayload, Resume
from appliance.fanout.catchup import Outcome, turn
from appliance.fanout.frames import FrameCache, FrameSet, Variant
from appliance.fanout.hub import Hub, HubSettings
from appliance.fanout.marks import Mark
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.rounds import Round
from appliance.fanout.session import Session, Stage
from tests.fanout.fakes import FakeWire, MemoryLog, messages

SETTINGS = HubSettings(max_lag=100, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3)


@dataclass(eq=False)
class Subscriber:
    """A session with its simulated socket, and what it must be sent."""

    session: Session
    wire: FakeWire
    variant: Variant
    position: int
    skip: tuple[int, int] | None
    drops: list[Session] = field(default_factory=list)
    backlog: deque[FrameSet] = field(default_factory=deque)

    def expected(self, entries: Iterable[Entry]) -> list[Entry]:
        """The suffix of the log that this subscriber asked for."""
        suffix = [entry for entry in entries if entry.position > self.position]
        while self.skip is not None and suffix and suffix[0].key <= self.skip:
            del suffix[0]
        return suffix

    def at(self, stage: Stage) -> bool:
        """Whether its session is in this stage."""
        return self.session.stage is stage

    def dropped(self) -> bool:
        """Whether the hub ended the connection."""
        return bool(self.drops)

    @property
    def received(self) -> list[bytes]:
        return messages(self.wire.sent)


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
        self.now = 0.0

    def _on_behind(self, session: Session, full: bool) -> None:
        assert session not in self.writers, "one writer for each session"
        self.writers[session] = full

    def connect(
        self,
        resume: Resume | None = None,
        variant: Variant = Variant.TEXT,
        choose: Callable[[int], int] = lambda size: size,
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
        )
        subscriber = Subscriber(session, wire, variant, located.position, located.skip_through, drops)
        self.subscribers.append(subscriber)
        self.hub.attach(session)
        return subscriber

    def begin(self, limit: int = 8) -> bool:
        """Start the next broadcast, if the log has news and no broadcast is under way."""
        entries = self.log.recent(self.hub.mark.position, limit) or []
        if self.rounds or not entries:
            return False
        before, batch = self.hub.mark, self.cache.get_all(entries)
        for variant, members in self.hub.begin(batch).items():
            data = b"".join(item.make(variant) for item in batch)
            self.rounds.append(Round(self.hub, members, data, entries=len(batch), before=before, after=self.hub.mark))
        return True

    def close_lagging(self) -> None:
        """What the sweep does about those beyond the bound."""
        for session in self.hub.beyond_bound():
            self.hub.end_if_beyond(session, self.now)

    def deliver(self, sessions: int = 1_000_000) -> None:
        """One slice of the broadcast under way: up to so many sessions."""
        ticks = iter(range(10**9))
        if self.rounds and self.rounds[0].run(lambda: next(ticks), sessions - 1):
            del self.rounds[0]

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

    def settle(self) -> None:
        """Every socket takes everything; run until nobody has anything to do."""
        for subscriber in self.subscribers:
            subscriber.wire.choose = lambda size: size
        rounds = 0
        while self.rounds or self.begin() or self.writers:
            rounds += 1
            assert rounds < 10_000, "somebody never gets done"
            self.deliver()
            for subscriber in self.subscribers:
                self.write(subscriber)

    def publish(self, *keys: tuple[int, int]) -> list[Entry]:
        """Append entries and broadcast them; writers do not run."""
        added = [self.log.append(*key) for key in keys]
        while self.begin():
            while self.rounds:
                self.deliver()
        self.close_lagging()
        return added
