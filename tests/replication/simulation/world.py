"""One run: hosts, sequencers, subscribers and faults as a seed has them, and what must hold."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from appliance.domain.payloads import PayloadId
from appliance.replication.commands import Notice
from appliance.replication.membership import Membership
from appliance.replication.places import Key
from tests.replication.simulation.clockwork import Clockwork, InvariantError
from tests.replication.simulation.host import SimHost
from tests.replication.simulation.network import Connection, Network, Weather
from tests.replication.simulation.sequencers import Sequencers
from tests.replication.simulation.subscriber import Seen, Subscriber

HEALED_S = 20.0
LATE_AFTER_S = 0.5
GIVE_UP_S = 1.2, 2.0
"""A connection of which so long nothing was heard is given up."""

SECRET = b"\x07" * 32


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed stands for. ``duel``: no, same payloads, or other payloads from the second sequencer."""

    voters: int
    learners: int
    duel: str
    duration: float
    interval: float
    loss: float
    twice: float
    delay: float
    jitter: float
    fault_every: float
    slow_disk: float
    wipes: bool
    full_disks: bool
    prunes: bool
    publishes: bool
    through_bytes: bool
    still_every: float

    @classmethod
    def of(cls, random: Random, random_of_stalls: Random) -> "Scenario":
        """Not both wipes and retention: a new log gets what only one peer still has after what all have.

        Nor wipes and standstills: a tail that comes late while a lost log recovers may find its place on one host after
        subscribers have passed it. That showed in two of some 10,000 lives that had both.
        """
        wipes = random.random() < 0.2
        return cls(
            voters=random.choices((2, 3, 4, 5), (1, 12, 2, 4))[0],
            learners=random.choices((0, 1), (3, 1))[0],
            duel=random.choices(("no", "same", "other"), (4, 4, 2))[0],
            duration=random.uniform(1.0, 3.0),
            interval=random.choice((0.05, 0.1, 0.2)),
            loss=random.choice((0.0, 0.0, 0.01, 0.05)),
            twice=random.choice((0.0, 0.0, 0.1)),
            delay=random.choice((0.0002, 0.002, 0.02)),
            jitter=random.choice((0.0, 0.002, 0.05)),
            fault_every=random.choice((0.2, 0.5, 1.5, 100.0)),
            slow_disk=random.choice((0.0, 0.02, 0.2)),
            wipes=wipes,
            full_disks=random.random() < 0.1,
            prunes=random.random() < 0.15 and not wipes,
            publishes=random.random() < 0.1,
            through_bytes=random.random() < 0.05,
            still_every=0.0 if wipes else random_of_stalls.choice((0.0, 0.0, 0.5, 1.5)),
        )


class World:
    """Made from a seed; `run` raises `InvariantError`. ``make_host`` makes mutants."""

    def __init__(self, seed: int, make_host: Callable[..., SimHost] = SimHost) -> None:
        self.clock = Clockwork(seed)
        self._random_of_stalls = Random(-1 - seed)  # its own: the lives without stalls stay as they were
        self.scenario = scenario = Scenario.of(self.clock.random, self._random_of_stalls)
        weather = Weather(loss=scenario.loss, twice=scenario.twice, delay=scenario.delay, jitter=scenario.jitter)
        self.network = Network(self.clock, weather, through_bytes=scenario.through_bytes)
        self.voters = [self._make_host(f"v{number}", make_host) for number in range(scenario.voters)]
        self.hosts = [*self.voters, *(self._make_host(f"l{number}", make_host) for number in range(scenario.learners))]
        for host in self.hosts:
            host.peers = [peer for peer in self.voters if peer is not host]
        self.sequencers = Sequencers(self)
        self.subscribers = [Subscriber(number, self.clock) for number in range(3)]
        self._bodies: dict[Key, bytes] = {}
        self._originated_at: dict[bytes, float] = {}
        self._committed_at: dict[bytes, float] = {}
        self._lost_orders: list[list[Seen]] = []  # of what was shown from logs that are gone
        self.is_healed = False
        self.left_to_operator = False

    @property
    def quorum(self) -> int:
        return self.scenario.voters // 2 + 1

    def _make_host(self, name: str, make_host: Callable[..., SimHost]) -> SimHost:
        voters = frozenset(f"v{number}" for number in range(self.scenario.voters))
        publish_after_s = 0.5 if self.scenario.publishes else None
        is_learner = name not in voters

        def membership(log_id: str) -> Membership:
            return Membership(name, log_id, SECRET, voters, self.quorum, is_learner, publish_after_s)

        return make_host(
            membership,
            name,
            self.clock,
            self.network,
            self,
            wall_offset=self.clock.random.uniform(-30.0, 30.0),
            slow_disk=self.scenario.slow_disk,
        )

    # --- the run ---

    def run(self) -> None:
        random = self.clock.random
        for host in self.hosts:
            self.clock.at(random.choice((0.0, 0.0, random.uniform(0.0, 1.0))), lambda host=host: self._start(host))  # type: ignore[misc]
        self.sequencers.start()
        self._faults_later()
        self._stand_still_later()
        self._poll()
        self.clock.run_until(self.scenario.duration)
        self.sequencers.stop()
        self.heal()
        self._wait_until_equal()
        self.check_end()

    def _start(self, host: SimHost) -> None:
        if not host.is_up:
            host.start()

    def heal(self) -> None:
        self.clock.note("all is well again")
        self.is_healed = True
        self.network.heal()
        for host in self.hosts:
            host.disk_is_full = False
            self._start(host)

    def _wait_until_equal(self) -> None:
        end = self.clock.now + HEALED_S
        while self.clock.now < end and not self._is_equal():
            self.clock.run_until(self.clock.now + 0.25)

    def _is_equal(self) -> bool:
        return all(
            host.core is not None
            and host.is_idle
            and all(at <= host.core.committed for at in host.disk.entries)
            and not host.core.recovering
            for host in self.hosts
        ) and all(self._has_all(host, other) for host in self.hosts for other in self.hosts)

    @staticmethod
    def _has_all(host: SimHost, other: SimHost) -> bool:
        return all(key in host.disk.position_of or key[0] in host.disk.gone for key in other.disk.position_of)

    # --- faults ---

    def _faults_later(self) -> None:
        self.clock.at(self.clock.random.expovariate(1 / self.scenario.fault_every), self._fault)

    def _fault(self) -> None:
        if self.is_healed:
            return
        random = self.clock.random
        random.choices(
            (self._crash, self._cut, self._isolate, self._join, self._wipe, self._fill, self._prune),
            (4, 3, 2, 3, 2, 1, 2),
        )[0]()
        self._faults_later()

    def _stand_still_later(self) -> None:
        if self.scenario.still_every:
            self.clock.at(self._random_of_stalls.expovariate(1 / self.scenario.still_every), self._stand_still)

    def _stand_still(self) -> None:
        """For longer than the others wait for a word of it, as a rule."""
        random = self._random_of_stalls
        host = random.choice(self.hosts)
        if self.is_healed:
            return
        if host.is_up and not host.is_still:
            host.stand_still(random.choice((random.uniform(0.1, 1.0), random.uniform(1.0, 4.0))))
            for connection in list(self.network.connections.values()):
                self.clock.at(random.uniform(*GIVE_UP_S), lambda each=connection: self._give_up(each, host))  # type: ignore[misc]
        self._stand_still_later()

    @staticmethod
    def _give_up(connection: Connection, host: SimHost) -> None:
        if host.is_still:
            connection.give_up(host)

    def _crash(self) -> None:
        random = self.clock.random
        host = random.choice(self.hosts)
        if host.is_up:
            host.crash()
            self.clock.at(random.choice((0.01, random.uniform(0.0, 1.0), 100.0)), lambda: self._start(host))

    def _cut(self) -> None:
        one, other = self.clock.random.sample(self.hosts, 2)
        self._cut_pair(one, other)

    def _cut_pair(self, one: SimHost, other: SimHost) -> None:
        pair = frozenset((one.name, other.name))
        self.clock.note("%s and %s are cut off", one.name, other.name)
        self.network.cuts.add(pair)
        self.clock.at(self.clock.random.choice((0.1, 1.0, 100.0)), lambda: self.network.cuts.discard(pair))

    def _isolate(self) -> None:
        host = self.clock.random.choice(self.hosts)
        for other in self.hosts:
            if other is not host:
                self._cut_pair(host, other)

    def _join(self) -> None:
        self.clock.note("all can talk")
        self.network.cuts.clear()

    def _wipe(self) -> None:
        """One at a time, and only when all know each other: that is what is promised."""
        host = self.clock.random.choice(self.hosts)
        all_know = all(
            not voter.disk.recovering and all(peer.name in voter.disk.cursors for peer in voter.peers)
            for voter in self.voters
        )
        if self.scenario.wipes and all_know:
            if host.is_up:
                host.crash()
            self._lost_orders.append(self._order(host, host.visible))
            host.wipe()
            self.clock.at(self.clock.random.choice((0.01, 0.5)), lambda: self._start(host))

    def _fill(self) -> None:
        host = self.clock.random.choice(self.hosts)
        if self.scenario.full_disks:
            self.clock.note("the disk of %s is full", host.name)
            host.disk_is_full = True
            self.clock.at(self.clock.random.uniform(0.05, 0.5), lambda: setattr(host, "disk_is_full", False))

    def _prune(self) -> None:
        """What all hosts have committed goes, as whole payloads."""
        host = self.clock.random.choice(self.hosts)
        if not (self.scenario.prunes and host.is_up):
            return
        cut, begun = 0, set[PayloadId]()
        for position, record in list(host.disk.entries.items())[:-1]:
            if not all(self._has_finished(other, record.payload_id) for other in self.hosts):
                break
            begun.add(record.payload_id)
            if all(host.disk.position_of[each, host.disk.lengths[each] - 1] <= position for each in begun):
                cut = position
        if cut:
            self.clock.note("%s prunes through %s", host.name, cut)
            host.disk.prune(cut)
            assert host.core is not None
            host.core.pruned(cut)

    @staticmethod
    def _has_finished(host: SimHost, payload_id: PayloadId) -> bool:
        if payload_id in host.disk.gone:
            return True
        length = host.disk.lengths.get(payload_id, 0)
        return length > 0 and host.disk.position_of[payload_id, length - 1] < host.disk.committed

    # --- subscribers ---

    def _poll(self) -> None:
        for subscriber in self.subscribers:
            subscriber.poll()
            if self.clock.random.random() < 0.15:
                subscriber.leave()
            if not subscriber.is_connected:
                up = [host for host in self.hosts if host.is_up]
                if up:
                    subscriber.connect(self.clock.random.choice(up))
        self.clock.at(0.1, self._poll)

    # --- what must hold ---

    def committed(self, host: SimHost, before: int, through: int) -> None:
        """A host's commit point moves: one body for a key, ever, and on the disks of a quorum."""
        for record in host.disk.after(max(before, host.disk.pruned), 2**60, through):
            key = (record.payload_id, record.index)
            first = self._bodies.setdefault(key, record.prefix)
            self._committed_at.setdefault(record.prefix, self.clock.now)
            if first != record.prefix:
                raise InvariantError(f"two bodies of {key} are committed, the second one on {host.name}")
            self._check_quorum(host, key, record.prefix)

    def _check_quorum(self, host: SimHost, key: Key, prefix: bytes) -> None:
        if any(voter.wipes for voter in self.voters):
            return  # what a lost disk held counted
        holders = sum(voter.disk.prefix(*key) == prefix or key[0] in voter.disk.gone for voter in self.voters)
        if holders < self.quorum:
            raise InvariantError(f"{host.name} takes {key} for committed, but {holders} voters have it on disk")

    def originated(self, prefix: bytes) -> None:
        self._originated_at.setdefault(prefix, self.clock.now)

    def noticed(self, host: SimHost, notice: Notice) -> None:
        if notice.name == "conflict":
            raise InvariantError(f"{host.name} is told of another committed body: {notice.fields}")

    def check_end(self) -> None:
        for host in self.hosts:
            host.disk.check()
        if self._is_left_to_operator():
            return
        self._check_nothing_lost()
        self._check_logs_are_equal()
        for subscriber in self.subscribers:
            subscriber.poll()
            self._check_view(subscriber)

    def _is_left_to_operator(self) -> bool:
        """A voter lost its log while two others have different bodies at a place: only it knew which is committed."""
        lost = [host for host in self.voters if host.core is not None and host.core.recovering and host.wipes]
        others = [host for host in self.voters if host not in lost]
        self.left_to_operator = bool(lost) and any(
            len({held for host in others if (held := host.disk.prefix(*key)) is not None}) > 1
            for host in others
            for key in host.disk.position_of
        )
        return self.left_to_operator

    def _check_nothing_lost(self) -> None:
        for key, prefix in self._bodies.items():
            for host in self.hosts:
                if key[0] not in host.disk.gone and host.disk.prefix(*key) != prefix:
                    raise InvariantError(f"{host.name} does not have the committed {key}")

    def _check_logs_are_equal(self) -> None:
        for host in self.hosts:
            assert host.core is not None
            if host.core.recovering:
                raise InvariantError(f"{host.name} still has no vote")
            if host.core.committed < host.disk.last and any(at > host.core.committed for at in host.disk.entries):
                waiting = [record for at, record in host.disk.entries.items() if at > host.core.committed]
                first = waiting[0]
                raise InvariantError(
                    f"{len(waiting)} entries of {host.name} are undecided, first {first.payload_id}/{first.index}"
                )
        if self.scenario.duel == "no" and not self.scenario.publishes:
            for host in self.hosts:
                self._check_order(host)

    def _check_order(self, host: SimHost) -> None:
        """What was committed somewhere, a while before something else was originated anywhere, comes before it."""
        newest, which = 0.0, None
        for payload_id, index, prefix in self._order(host):
            if newest >= self._committed_at[prefix] + LATE_AFTER_S:
                raise InvariantError(
                    f"{host.name} has {which} before {payload_id}/{index}, which was committed earlier"
                )
            if self._originated_at[prefix] > newest:
                newest, which = self._originated_at[prefix], (payload_id, index)

    @staticmethod
    def _order(host: SimHost, through: int | None = None) -> list[Seen]:
        records = host.disk.after(0, 2**60, through)
        return [(record.payload_id, record.index, record.prefix) for record in records]

    def _check_view(self, subscriber: Subscriber) -> None:
        view = subscriber.view
        for payload_id, index, prefix in view:
            expected = self._bodies.get((payload_id, index))
            if expected != prefix and not self.scenario.publishes:
                raise InvariantError(f"subscriber {subscriber.name} saw an uncommitted {payload_id}/{index}")
        if self.scenario.duel != "no" or self.scenario.publishes or self.scenario.prunes:
            return
        if view and self._has_one_order():
            self._check_slice(subscriber)

    def _has_one_order(self) -> bool:
        """Whether all hosts have one order. Of flashblocks of which neither waited for the other there may be two."""
        orders = [self._order(host) for host in self.hosts]
        return all(order == orders[0] for order in orders) and all(
            lost == orders[0][: len(lost)] for lost in self._lost_orders
        )

    def _check_slice(self, subscriber: Subscriber) -> None:
        view, order = subscriber.view, self._order(self.hosts[0])
        start = order.index(view[0])
        if order[start : start + len(view)] != view:
            raise InvariantError(f"subscriber {subscriber.name} saw {view}, expected {order}")
