"""One simulated host: the production core, a disk that takes its time and survives, and connections that do not."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Receipt, Record, Replica
from appliance.replication.commands import (
    Close,
    Command,
    CommitThrough,
    End,
    FollowState,
    Notice,
    Read,
    Renew,
    Replace,
    Requeue,
    SaveCursor,
    Send,
    SetRecovered,
    ShowThrough,
    Store,
)
from appliance.replication.core import Core
from appliance.replication.membership import Membership, Restored
from appliance.wire.replication import AnyMessage
from tests.replication.simulation.clockwork import Clockwork
from tests.replication.simulation.disk import DiskLog
from tests.replication.simulation.network import Network

TICK_S = 0.05
MAX_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class Job:
    """One transaction, and who gets its outcome. ``entries`` are those that need none where memory has them all."""

    transaction: Callable[[], object]
    answer: Callable[[object], None]
    entries: tuple[Replica, ...] = ()


class Observer(Protocol):
    """Who checks what must hold."""

    hosts: "list[SimHost]"

    def committed(self, host: "SimHost", before: int, through: int) -> None: ...
    def originated(self, prefix: bytes) -> None: ...
    def noticed(self, host: "SimHost", notice: Notice) -> None: ...


class SimHost:
    """``peers`` are the hosts it follows, by name. Rules that a mutant breaks are methods, to be overridden."""

    def __init__(
        self,
        membership: Callable[[str], Membership],
        name: str,
        clock: Clockwork,
        network: Network,
        observer: Observer,
        *,
        wall_offset: float,
        slow_disk: float,
    ) -> None:
        self.name = name
        self.clock = clock
        self.peers: list[SimHost] = []
        self.is_up = False
        self.incarnation = 0
        self.still_until = 0.0
        self.wipes = 0
        self.wall_offset = wall_offset
        self.disk_is_full = False
        self.visible = 0
        self.core: Core | None = None
        self._make_membership = membership
        self._network = network
        self._observer = observer
        self._slow_disk = slow_disk
        self.disk = DiskLog(f"{name}-0")
        self._changes: deque[Job] = deque()
        self._changing: Job | None = None
        self._waiting: list[Job] = []
        self._writing: list[Job] = []
        self._reads: deque[Read] = deque()
        self._links: dict[int, str | None] = {}
        self._branches: dict[PayloadId, tuple[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"<SimHost {self.name} {'up' if self.is_up else 'down'}: {self.core}>"

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for the disk."""
        return not (self._changes or self._changing or self._waiting or self._writing)

    # --- life and death ---

    def start(self) -> None:
        self.incarnation += 1
        self.still_until = 0.0
        self.is_up = True
        disk = self.disk
        membership = self._make_membership(disk.log_id)
        restored = Restored(
            disk.last,
            disk.committed,
            disk.pruned,
            tuple(disk.ends.items()),
            {host: cursor.log_id for host, cursor in disk.cursors.items()},
            disk.recovering,
        )
        self.visible = disk.committed
        self.core = self.make_core(membership, restored)
        self.clock.note("%s starts at %s, committed %s", self.name, disk.last, disk.committed)
        self._feed()
        self._carry_out()
        for peer in self.peers:
            self._dial_later(peer, 0.0)
        self._tick_later()

    def make_core(self, membership: Membership, restored: Restored) -> Core:
        return Core(membership, restored, self.clock.now, self.wall_offset)

    def crash(self) -> None:
        """The process is gone. What was being written may or may not have got to the disk."""
        self.clock.note("%s crashes", self.name)
        if self.clock.random.random() < 0.5:
            for job in self._writing:
                job.transaction()
        self.is_up = False
        self.core = None
        self.incarnation += 1
        self._changes.clear()
        self._changing = None
        self._waiting, self._writing = [], []
        self._branches.clear()
        for link in self._links:
            self._network.connections[link].abandon(self)
        self._links.clear()

    def wipe(self) -> None:
        """The disk is gone, too."""
        self.wipes += 1
        self.clock.note("%s loses its disk", self.name)
        self.disk = DiskLog(f"{self.name}-{self.wipes}")

    def stand_still(self, seconds: float) -> None:
        """The process is stopped, and goes on later with whatever has come meanwhile."""
        self.clock.note("%s stands still for %s s", self.name, seconds)
        self.still_until = self.clock.now + seconds

    @property
    def is_still(self) -> bool:
        return self.clock.now < self.still_until

    def when_awake(self, what: Callable[[], None]) -> None:
        """Now, or as soon as it goes on, in the order in which it was asked for."""
        if self.is_still:
            self.clock.at_time(self.still_until, lambda: self.when_awake(what))
        else:
            what()

    # --- links ---

    def _dial_later(self, peer: "SimHost", delay: float) -> None:
        self._later(delay + self.clock.random.uniform(0.001, 0.02), lambda: self._dial(peer))

    def _dial(self, peer: "SimHost") -> None:
        if peer.name in self._links.values():
            return
        link = self._network.connect(self, peer) if peer.is_up and not peer.is_still else None
        if link is None:
            self._dial_later(peer, self.clock.random.uniform(0.05, 0.4))
            return
        self._links[link] = peer.name
        peer.accept(link)
        core = self._core()
        core.follower_opened(
            link, peer.name, self.clock.random.randbytes(16), self.disk.cursors.get(peer.name), self.clock.now
        )
        self._carry_out()

    def accept(self, link: int) -> None:
        self._links[link] = None
        self._core().source_opened(link, self.clock.now)

    def received(self, link: int, message: AnyMessage) -> None:
        if link in self._links:
            self._core().received(link, message, self.clock.now)
            self._carry_out()

    def disconnected(self, link: int) -> None:
        if link in self._links:
            self._core().ended(link, self.clock.now)
            self._forget(link, failed=True)
            self._carry_out()

    def _forget(self, link: int, *, failed: bool) -> None:
        peer = self._links.pop(link)
        for each in self.peers:
            if each.name == peer:
                self._dial_later(each, self.clock.random.uniform(0.02, 0.3) if failed else 0.0)

    # --- the log ---

    def originate(self, payload_id: PayloadId, index: int, number: int, builder: str, body: bytes) -> None:
        """This host's own sequencer has a flashblock."""
        known = self._branches.get(payload_id)
        after = known[1] if known is not None and known[0] == index - 1 else None
        received_at = self.clock.now + self.wall_offset

        def write() -> bool:
            done = self.disk.append(payload_id, index, number, builder, body, received_at, after)
            if done and (held := self.disk.at(payload_id, index)) is not None:
                self._observer.originated(held.prefix)
            return done

        def written(done: object) -> None:
            held = self.disk.at(payload_id, index)
            if done and held is not None:
                self._branches[payload_id] = index, held.prefix
            self.clock.note("%s originates %s/%s %s: %s", self.name, payload_id, index, body.decode(), done)

        self._waiting.append(self._job(write, written))
        self._work()

    def _change(
        self, work: Callable[[], object], answer: Callable[[object], None], entries: tuple[Replica, ...] = ()
    ) -> None:
        self._changes.append(self._job(work, answer, entries))
        self._work()

    def _job(
        self, work: Callable[[], object], answer: Callable[[object], None], entries: tuple[Replica, ...] = ()
    ) -> Job:
        committed = self._core().committed

        def transaction() -> object:
            if self.disk_is_full:
                return None
            outcome = work()
            self.disk.committed = max(self.disk.committed, committed)
            return outcome

        return Job(transaction, answer, entries)

    def _work(self) -> None:
        """Changes one after another; whatever waits for the disk goes there together."""
        if self._changing is None and self._changes:
            self._changing = job = self._changes.popleft()
            if self._remembers(job.entries):
                self._later(0.0, lambda: self._finish([job]))
            else:
                self._waiting.append(job)
        if self._waiting and not self._writing:
            self._writing, self._waiting = self._waiting, []
            random = self.clock.random
            delay = random.uniform(0.0002, 0.002) if random.random() > self._slow_disk else random.uniform(0.01, 0.2)
            self._later(delay, self._written)

    def _remembers(self, entries: tuple[Replica, ...]) -> bool:
        """Whether all is here and known to be; not always, as memory is bounded and begins anew with the process."""
        is_held = all(self.disk.prefix(entry.payload_id, entry.index) == entry.prefix for entry in entries)
        return bool(entries) and is_held and self.clock.random.random() < 0.9

    def _written(self) -> None:
        written, self._writing = self._writing, []
        self._finish(written)

    def _finish(self, jobs: list[Job]) -> None:
        outcomes = [job.transaction() for job in jobs]
        self._feed()
        if self.clock.random.random() < 0.4:  # another input comes before the answer, and what the log has before that
            self._carry_out()
            self._later(self.clock.random.uniform(0.0, 0.03), lambda: self._answer(jobs, outcomes))
        else:
            self._answer(jobs, outcomes)

    def _answer(self, jobs: list[Job], outcomes: list[object]) -> None:
        self._feed()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job is self._changing:
                self._changing = None
            job.answer(outcome)
        self._carry_out()
        self._work()

    def _feed(self) -> None:
        core = self._core()
        if core.seen < self.disk.last:
            core.feed(self.disk.after(core.seen, MAX_RECORDS), self.disk.last, self.clock.now)

    # --- commands ---

    def _carry_out(self) -> None:
        core = self._core()
        while commands := core.take_commands():
            for command in commands:
                self._do(command)
            while self._reads:
                self._read(self._reads.popleft())

    def _do(self, command: Command) -> None:
        match command:
            case Send(link, message):
                self._network.connections[link].send(self, message)  # type: ignore[index]
            case End(link, reason, failed):
                self._end(link, reason, failed=failed)  # type: ignore[arg-type]
            case Read():
                self._reads.append(command)
            case CommitThrough(position):
                self._observer.committed(self, self.visible, position)
                self.visible = max(self.visible, position)
            case ShowThrough(position):
                self.visible = max(self.visible, position)
            case Notice():
                self.clock.note("%s notices %s %s", self.name, command.name, command.fields)
                self._observer.noticed(self, command)
            case FollowState() | Renew():
                pass
            case _:
                self._do_later(command)

    def _end(self, link: int, reason: str, *, failed: bool) -> None:
        self.clock.note("%s ends link %s: %s", self.name, link, reason)
        if link in self._links:
            self._network.connections[link].close(self)
            self._forget(link, failed=failed)

    def _read(self, command: Read) -> None:
        records = self.disk.after(command.after, command.limit, command.through)
        if self.clock.random.random() < 0.5:  # from the disk: meanwhile things happen
            self._later(self.clock.random.uniform(0.0, 0.02), lambda: self._answer_read(command, records))
        else:
            self._core().read(command, records, self.clock.now)

    def _answer_read(self, command: Read, records: list[Record]) -> None:
        self._core().read(command, records, self.clock.now)
        self._carry_out()

    def _do_later(self, command: Store | Replace | Close | Requeue | SaveCursor | SetRecovered) -> None:
        disk, core = self.disk, self._core()
        match command:
            case Store():
                self._change(
                    lambda: self._store(command), lambda receipts: self._stored(command, receipts), command.entries
                )
            case Replace():
                self._attempt(lambda: disk.replace(command.payload_id, command.from_index), core.removed, command)
            case Close():
                self._attempt(lambda: disk.close(command.payload_id, command.at), core.closed, command)
            case Requeue():
                self._attempt(lambda: disk.requeue(command.payload_id, command.from_index), core.requeued, command)
            case SaveCursor(peer, cursor):
                self._change(lambda: disk.cursors.__setitem__(peer, cursor), lambda _: None)
            case SetRecovered():
                self._attempt(disk.set_recovered, core.recovered, command)

    def _attempt(
        self, job: Callable[[], object], answer: Callable[..., None], command: Replace | Close | Requeue | SetRecovered
    ) -> None:
        def changed(done: object) -> None:
            if done is None:
                self._core().change_failed(command, self.clock.now)
                return
            if isinstance(command, Replace | Close):
                self._branches.pop(command.payload_id, None)
            answer(command, self.clock.now)

        self._change(lambda: (job(),), changed)

    def _store(self, store: Store) -> list[Receipt]:
        if store.cursor is not None:
            self.disk.cursors[store.peer] = store.cursor
        return self.disk.append_from(store.entries, store.late)

    def _stored(self, store: Store, receipts: object) -> None:
        if isinstance(receipts, list):
            self._core().stored(store, receipts, self.clock.now)
        else:
            self._core().store_failed(store, "the disk is full", self.clock.now)

    # --- time ---

    def _tick_later(self) -> None:
        self._later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._core().alive(self.clock.now)
        self._core().tick(self.clock.now)
        self._carry_out()
        self._tick_later()

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        """Unless the process is gone by then."""
        incarnation = self.incarnation

        def do() -> None:
            if self.incarnation == incarnation:
                what()

        self.clock.at(delay, lambda: self.when_awake(do))

    def _core(self) -> Core:
        assert self.core is not None
        return self.core
