"""The second part of the fan-out bench: subscribers come back, all at once, while the stream flows and blocks are made.

The appliance is `appliance run` with engine, flashblocks, log and fan-out, and the driver of the engine bench asks
it for blocks all the time. First nobody reconnects, then some while the others stay, then all do.
"""

import gc
import pathlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import msgspec

from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.reader import Reader
from bench.engine import Driver, Samples
from bench.fanout_settings import Settings
from bench.fanout_steady import start_receivers
from bench.machine import cpu_s
from bench.messages import PREFIX_BYTES, sequence_of
from bench.output import Progress
from bench.percentiles import Summary
from bench.processes import Processes, started
from bench.subscribers import Arrivals, Deliveries, Storm, Subscribers

STAYERS, MOVERS = "stayers", "movers"
EARLIER_SLOTS = 64  # as many messages as fill the sockets of a stuck reader
EARLIER_SLOT_S = 0.02
AWAY_S = 1.0  # between the break and the reconnect: what is published meanwhile is the backlog of each
SETTLE_SLOTS = 5
PAYLOAD_BYTES = 10_240
MAX_LOGGED = 2**40


class Engine(msgspec.Struct, frozen=True):
    """Every request of the Engine API, of all four kinds, directly and through the appliance."""

    direct_ms: Summary
    through_ms: Summary

    @classmethod
    def of(cls, samples: Sequence[Samples]) -> "Engine":
        pairs = [pair for found in samples for pair in found.values()]
        direct, through = ([one * 1e3 for pair in pairs for one in pair[side]] for side in (0, 1))
        return cls(Summary.of(direct), Summary.of(through))

    @property
    def added_p99_ms(self) -> float:
        return self.through_ms.p99 - self.direct_ms.p99


class Returned(msgspec.Struct, frozen=True):
    """One storm: how many came back, until the last was answered, until all had caught up, and at which CPU."""

    subscribers: int
    answered_s: float
    caught_up_s: float
    cpu_s: float


class Storms(msgspec.Struct, frozen=True):
    """Blocks without a storm, then some come back (``stayers`` is what the others got), then all do."""

    quiet: Engine
    quiet_deliveries: Deliveries  # its faults are those of the whole run
    partial: Engine
    partial_returned: list[Returned]
    stayers: Deliveries
    whole: Engine
    whole_returned: list[Returned]
    late: int
    """Messages that came when their block was sealed: they are in no log, and nobody is sent them."""

    @property
    def slowest_s(self) -> float:
        """The slowest return of all."""
        return max(one.caught_up_s for one in self.whole_returned)


class Bench:
    """Steers the processes through one run."""

    def __init__(self, settings: Settings, processes: Processes, subscribers: Subscribers) -> None:
        self._settings = settings
        self._processes = processes
        self._subscribers = subscribers
        self._driver = Driver(processes.direct, processes.through)
        self._slot_s = 1 / settings.rate

    def run(self, note: Progress) -> Storms:
        first = self._begin(note)
        note("blocks, and nobody reconnects")
        calm_first = len(self._published())
        quiet = self._driver.run(self._settings.quiet_slots, self._slot_s)
        calm = range(calm_first, len(self._published()))
        partial, whole = [], []
        for number in range(self._settings.storms):
            note(f"storm {number + 1} of {self._settings.storms}: {self._settings.movers} come back")
            partial.append(self._storm([MOVERS]))
            note(f"storm {number + 1} of {self._settings.storms}: all come back")
            whole.append(self._storm([MOVERS, STAYERS]))
        note("collecting")
        return self._collect(first, Engine.of([quiet]), calm, partial, whole)

    def _begin(self, note: Progress) -> int:
        """Publish, connect everybody; the number of the message that they begin with."""
        settings, port = self._settings, self._processes.appliance.fanout_port
        self._processes.builders[0].ask("stream", bytes=settings.size)
        self._processes.resize(PAYLOAD_BYTES)
        self._driver.run(EARLIER_SLOTS, EARLIER_SLOT_S)
        note(f"connecting {settings.subscribers} subscribers")
        stayers = settings.subscribers - settings.movers
        self._subscribers.connect(STAYERS, port, "/ws", 1, count=stayers, stuck=settings.stuck)
        self._subscribers.connect(MOVERS, port, "/ws", 1, count=settings.movers)
        logged = _logged(self._processes.folder / "data")
        return max(number for number in self._published() if number in logged)  # the payload that was current

    def _published(self) -> dict[int, float]:
        """When each message was sent by the builder."""
        return dict(self._processes.builders[0].ask("published")["published"])

    def _storm(self, groups: list[str]) -> "Observed":
        """They break, are away, and come back; then a pause, so that storms do not overlap."""
        samples: list[Samples] = []
        first = len(self._published())
        self._subscribers.drop(groups)
        self._driver.run(round(AWAY_S / self._slot_s), self._slot_s)
        used_s = cpu_s(self._processes.appliance.pid)
        storm = self._subscribers.reconnect(
            groups, lambda goes_on: samples.append(self._driver.run_while(goes_on, self._slot_s))
        )
        used_s = cpu_s(self._processes.appliance.pid) - used_s
        found = Observed(storm, used_s, samples[0], range(first, len(self._published())))
        self._driver.run(SETTLE_SLOTS, self._slot_s)
        return found

    def _collect(
        self, first: int, quiet: Engine, calm: range, partial: list["Observed"], whole: list["Observed"]
    ) -> Storms:
        sent = {number: at for number, at in self._published().items() if number >= first}
        logged = _logged(self._processes.folder / "data")
        published = {number: at for number, at in sent.items() if number in logged}
        arrived = {}
        for group in (STAYERS, MOVERS):
            self._subscribers.wait(group, max(published))
            arrived[group] = self._subscribers.finish(group, published, self._processes.folder)
        everybody = arrived[STAYERS] + arrived[MOVERS]
        movers, stayers = self._settings.movers, self._settings.subscribers - self._settings.stuck
        return Storms(
            quiet,
            everybody.deliveries(calm),
            Engine.of([one.samples for one in partial]),
            [one.returned(movers, arrived[MOVERS]) for one in partial],
            arrived[STAYERS].deliveries({number for one in partial for number in one.numbers}),
            Engine.of([one.samples for one in whole]),
            [one.returned(stayers, everybody) for one in whole],
            len(sent) - len(published),
        )


def _logged(folder: pathlib.Path) -> set[int]:
    """The messages that the appliance has in its log: those that it owes its subscribers."""
    with closing(Reader(folder / DATABASE_NAME)) as reader:
        records = reader.records(0, MAX_LOGGED, MAX_LOGGED, MAX_LOGGED)
    return {sequence_of(record.body[:PREFIX_BYTES], 1) for record in records}  # as the builder numbers them


@dataclass(frozen=True)
class Observed:
    """A storm while it passed; ``numbers`` are the messages of that time."""

    storm: Storm
    cpu_s: float
    samples: Samples
    numbers: range

    def returned(self, subscribers: int, arrivals: Arrivals) -> Returned:
        storm = self.storm
        return Returned(subscribers, storm.answered_at - storm.began, arrivals.caught_up_s(storm), self.cpu_s)


def measure(settings: Settings, note: Progress) -> Storms:
    """ChildError or CallError when a process fails."""
    with ExitStack() as stack:
        note("starting the appliance with its engine")
        processes = stack.enter_context(started(1, subscribers=settings.subscribers))
        subscribers = Subscribers(start_receivers(settings.receivers, stack), encodings=settings.encodings)
        gc.freeze()
        return Bench(settings, processes, subscribers).run(note)
