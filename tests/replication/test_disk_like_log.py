"""The simulation's disk says and holds what the real log does, whatever comes."""

import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError
from appliance.domain.flashblocks import Flashblock
from appliance.flashlog import replica_jobs
from appliance.flashlog.reader import Reader
from appliance.flashlog.rows import Arrival
from appliance.flashlog.store import Store, Work
from tests.flashlog.replicas import replicas, without_body
from tests.flashlog.support import flashblock, payload_id
from tests.replication.simulation.disk import DiskLog

MAX = 2**40
numbers = st.integers(0, 2)
texts = st.sampled_from(["", "other"])


def branch(payload: int, text: str, split: int, length: int) -> list[Flashblock]:
    return [flashblock(payload, index, text=text if index >= split else "") for index in range(length)]


class DiskLikeLog(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "flashlog.db"
        self.store = Store(path)
        self.reader = Reader(path)
        self.disk = DiskLog("disk")

    def teardown(self) -> None:
        with closing(self.store), closing(self.reader):
            pass
        self.folder.cleanup()

    def run(self, job: Work) -> object:
        (outcome,) = self.store.apply([job])
        return outcome

    @rule(payload=numbers, text=texts, split=numbers)
    def append(self, payload: int, text: str, split: int) -> None:
        item = branch(payload, text, split, self.disk.lengths.get(payload_id(payload), 0) + 1)[-1]
        outcome = self.run(lambda store: store.append(Arrival(item, "own", 0.0)))
        assert item.block_number is not None
        done = self.disk.append(item.payload_id, item.index, item.block_number, "own", item.body, 0.0, None)
        assert done != isinstance(outcome, EquivocationError | OutOfOrderError | LogError)

    @rule(
        payload=numbers,
        text=texts,
        split=numbers,
        first=numbers,
        count=st.integers(1, 4),
        late=st.sets(st.integers(1, 8)),
        bare=st.booleans(),
    )
    def take(self, payload: int, text: str, split: int, first: int, count: int, late: set[int], bare: bool) -> None:
        sent = replicas(branch(payload, text, split, first + count))[first:]
        if bare:
            sent = [without_body(sent[0]), *sent[1:]]
        received = self.run(lambda store: replica_jobs.append_from(store, "peer", sent, None, late))
        assert isinstance(received, replica_jobs.Received)
        ours = self.disk.append_from(sent, frozenset(late))
        # A branch that is refused already may be called that, or out of order: the cores take both alike.
        for theirs, mine in zip(received.receipts, ours, strict=True):
            if (theirs.verdict, mine.verdict) != ("refused", "out_of_order"):
                assert theirs == mine

    @rule(payload=numbers, from_index=numbers)
    def replace(self, payload: int, from_index: int) -> None:
        self.run(lambda store: replica_jobs.replace(store, payload_id(payload), from_index, "", (), {}))
        self.disk.replace(payload_id(payload), from_index)

    @rule(payload=numbers, at=numbers)
    def close(self, payload: int, at: int) -> None:
        self.run(lambda store: replica_jobs.close_payload(store, payload_id(payload), at))
        self.disk.close(payload_id(payload), at)

    @rule(payload=numbers, from_index=numbers)
    def requeue(self, payload: int, from_index: int) -> None:
        self.run(lambda store: replica_jobs.requeue(store, payload_id(payload), from_index))
        self.disk.requeue(payload_id(payload), from_index)

    @invariant()
    def they_hold_the_same(self) -> None:
        self.disk.check()
        mine = [(each.position, each.payload_id, each.index, each.prefix) for each in self.disk.after(0, MAX)]
        records = self.reader.records(0, MAX, MAX, MAX)
        assert [(each.position, each.payload_id, each.index, each.prefix) for each in records] == mine
        assert dict(self.reader.closed()) == self.disk.ends
        assert self.reader.given_through() == self.disk.last


TestDiskLikeLog = DiskLikeLog.TestCase
TestDiskLikeLog.settings = settings(max_examples=40, stateful_step_count=25)
