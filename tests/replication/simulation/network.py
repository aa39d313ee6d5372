"""Connections between simulated hosts: streams that are delayed, cut, and never repaired."""

from collections.abc import Callable
from typing import Protocol

from appliance.wire.replication import AnyMessage, decode, encode
from tests.replication.simulation.clockwork import Clockwork


class End(Protocol):
    """One host as its connections see it."""

    name: str

    def when_awake(self, what: Callable[[], None]) -> None: ...
    def received(self, link: int, message: AnyMessage) -> None: ...
    def disconnected(self, link: int) -> None: ...


class Weather:
    """What the network does: chances for each message, delays in seconds."""

    def __init__(self, *, loss: float, twice: float, delay: float, jitter: float) -> None:
        self.loss = loss
        self.twice = twice
        self.delay = delay
        self.jitter = jitter


class Connection:
    """A stream each way. What is lost ends it: what was sent after that never arrives either."""

    def __init__(self, network: "Network", link: int, ends: tuple[End, End]) -> None:
        self.link = link
        self.is_doomed = False
        self._network = network
        self._ends: list[End | None] = list(ends)
        self._last_arrival = [0.0, 0.0]

    def send(self, sender: End, message: AnyMessage) -> None:
        side = 0 if self._ends[0] is sender else 1
        network, clock = self._network, self._network.clock
        if self.is_doomed or self._ends[side] is None:
            return
        names = tuple(end.name for end in self._ends if end is not None)
        if network.is_cut(names) or clock.random.random() < network.weather.loss:
            self.doom()
            return
        if network.through_bytes:
            message = decode(encode(message))
        self._deliver(1 - side, message)
        if clock.random.random() < network.weather.twice:
            self._deliver(1 - side, message)

    def _deliver(self, side: int, message: AnyMessage) -> None:
        self._arrive(side, lambda end: end.received(self.link, message))

    def _arrive(self, side: int, what: Callable[[End], None]) -> None:
        clock, weather = self._network.clock, self._network.weather
        due = clock.now + weather.delay + clock.random.random() * weather.jitter
        self._last_arrival[side] = due = max(due, self._last_arrival[side])

        def arrive() -> None:
            end = self._ends[side]
            if end is not None and not self.is_doomed:
                end.when_awake(lambda: what(end))

        clock.at(due - clock.now, arrive)

    def close(self, closer: End) -> None:
        """One side closes: the other hears of it after what was sent before."""
        side = 0 if self._ends[0] is closer else 1
        self._ends[side] = None
        self._arrive(1 - side, lambda _: self._drop(1 - side))

    def abandon(self, crashed: End) -> None:
        """One side is gone without a word."""
        self._ends[0 if self._ends[0] is crashed else 1] = None
        self.doom()

    def doom(self) -> None:
        """Nothing passes any more; the sides find out by themselves, each at its time."""
        if self.is_doomed:
            return
        self.is_doomed = True
        for side in (0, 1):
            self._network.clock.at(self._network.clock.random.uniform(0.02, 1.0), lambda side=side: self._drop(side))  # type: ignore[misc]

    def _drop(self, side: int) -> None:
        end, self._ends[side] = self._ends[side], None
        if end is not None:
            end.when_awake(lambda: end.disconnected(self.link))

    def give_up(self, silent: End) -> None:
        """The other side has heard nothing of one for too long. That one finds what was sent before, when it looks."""
        if silent not in self._ends or None in self._ends or self.is_doomed:
            return
        other = self._ends[0] if self._ends[1] is silent else self._ends[1]
        assert other is not None
        self.close(other)
        other.when_awake(lambda: other.disconnected(self.link))


class Network:
    """All connections, and which pairs of hosts cannot talk."""

    def __init__(self, clock: Clockwork, weather: Weather, *, through_bytes: bool) -> None:
        self.clock = clock
        self.weather = weather
        self.through_bytes = through_bytes
        self.cuts: set[frozenset[str]] = set()
        self.connections: dict[int, Connection] = {}
        self._links = 0

    def is_cut(self, names: tuple[str, ...]) -> bool:
        return bool(self.cuts) and frozenset(names) in self.cuts

    def connect(self, follower: End, source: End) -> int | None:
        """The link's name, None where there is no way through."""
        if self.is_cut((follower.name, source.name)):
            return None
        self._links += 1
        self.connections[self._links] = Connection(self, self._links, (follower, source))
        return self._links

    def heal(self) -> None:
        """From now on all pairs can talk; streams that were cut stay so."""
        self.cuts.clear()
        self.weather.loss = self.weather.twice = 0.0
