"""A replicated log against a dict: local and foreign entries, branches that lose, closings, commits, restarts."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.domain.errors import EquivocationError, OutOfOrderError
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Copy, Cursor, Record, Verdict
from appliance.flashlog import FlashLog
from appliance.flashlog.maintenance import verify
from tests.flashlog.replicas import replicas
from tests.flashlog.support import assert_contiguous, flashblock, payload_id
from tests.flashlog.test_stateful import MAX, Loop

numbers = st.integers(0, 2)
texts = st.sampled_from(["", "other"])
Bodies = list[bytes]


def branch(payload: int, text: str, split: int, length: int) -> list[Flashblock]:
    """A payload's flashblocks, of which those from ``split`` on say ``text``."""
    return [flashblock(payload, index, text=text if index >= split else "") for index in range(length)]


class ReplicatedLogMachine(RuleBasedStateMachine):
    """``held`` has each payload's bodies in the order of its indices; nothing else counts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.held: dict[PayloadId, Bodies] = {}
        self.closed: dict[PayloadId, int] = {}
        self.cursors: dict[str, Cursor] = {}
        self.committed = 0
        self.loop = self.open()

    def open(self) -> Loop:
        return Loop(Path(self.folder.name), commit_on_append=False)

    def teardown(self) -> None:
        self.loop.stop()
        self.folder.cleanup()

    @rule(payload=numbers, text=texts, split=numbers)
    def append_locally(self, payload: int, text: str, split: int) -> None:
        have = self.held.get(payload_id(payload), [])
        item = branch(payload, text, split, len(have) + 1)[-1]
        closed = self.closed.get(payload_id(payload), 99)

        async def run(log: FlashLog) -> bool:
            try:
                await log.append(item, "a")
            except (EquivocationError, OutOfOrderError):
                return False
            return True

        if self.loop.call(run):
            assert item.index < closed
            self.held.setdefault(item.payload_id, []).append(item.body)

    @rule(payload=numbers, text=texts, split=numbers, first=numbers, count=st.integers(1, 4), peer=texts)
    def take_from_a_peer(self, payload: int, text: str, split: int, first: int, count: int, peer: str) -> None:
        sent = replicas(branch(payload, text, split, first + count))[first:]
        cursor = Cursor(text, first + count)
        receipts = self.loop.call(lambda log: log.append_from(peer, sent, cursor))
        self.cursors[peer] = cursor
        assert [receipt.verdict for receipt in receipts] == [self.expect(item) for item in sent]

    def expect(self, sent: Copy) -> Verdict:
        """What the log must say, and what it then holds."""
        have = self.held.get(sent.payload_id, [])
        mine = replicas([flashblock_of(sent, body, index) for index, body in enumerate(have)])
        if sent.index < len(have):
            return Verdict.HELD if mine[sent.index].prefix == sent.prefix else Verdict.REFUSED
        if sent.index >= self.closed.get(sent.payload_id, 99):
            return Verdict.CLOSED
        if sent.index > len(have):
            refused_before = any(key[0] == sent.payload_id and key[1] < sent.index for key in self.evidence())
            return Verdict.REFUSED if refused_before else Verdict.OUT_OF_ORDER
        assert sent.body is not None
        extended = replicas([flashblock_of(sent, body, index) for index, body in enumerate([*have, sent.body])])
        if extended[-1].prefix != sent.prefix:
            return Verdict.REFUSED
        self.held.setdefault(sent.payload_id, []).append(sent.body)
        return Verdict.NEW

    def evidence(self) -> set[tuple[PayloadId, int]]:
        found = self.loop.call(lambda log: log.evidence())
        return {(item.payload_id, item.index) for item in found}

    @rule(payload=numbers, text=texts, from_index=numbers, length=st.integers(0, 4))
    def replace(self, payload: int, text: str, from_index: int, length: int) -> None:
        if self.touches_what_is_committed(payload, from_index):
            return
        sent = replicas(branch(payload, text, from_index, length))
        cursors = {"": Cursor("back", 1)}
        self.loop.call(lambda log: log.replace(payload_id(payload), from_index, with_=sent, cursors=cursors))
        self.cursors |= cursors
        if self.closed.get(payload_id(payload), -1) >= from_index:
            del self.closed[payload_id(payload)]
        self.cut_off(payload, from_index)
        for item in sent:
            self.expect(item)

    @rule(payload=numbers, from_index=numbers)
    def requeue(self, payload: int, from_index: int) -> None:
        if not self.touches_what_is_committed(payload, from_index):
            self.loop.call(lambda log: log.requeue(payload_id(payload), from_index))

    @rule(payload=numbers, text=texts, split=numbers)
    def take_what_is_late(self, payload: int, text: str, split: int) -> None:
        have = self.held.get(payload_id(payload), [])
        sent = replicas(branch(payload, text, split, len(have) + 1))
        (receipt,) = self.loop.call(lambda log: log.append_from("b", sent[-1:], None, {sent[-1].position}))
        if receipt.verdict is Verdict.CLOSED:
            self.closed[payload_id(payload)] = min(len(have), self.closed.get(payload_id(payload), 99))
        else:
            assert receipt.verdict is Verdict.REFUSED

    @rule(payload=numbers, at=numbers)
    def close(self, payload: int, at: int) -> None:
        if self.touches_what_is_committed(payload, at):
            return
        self.loop.call(lambda log: log.close_payload(payload_id(payload), at))
        self.closed[payload_id(payload)] = min(at, self.closed.get(payload_id(payload), 99))
        self.cut_off(payload, at)

    def touches_what_is_committed(self, payload: int, from_index: int) -> bool:
        """What is committed stays: the plane never asks for anything else in "hold"."""
        return any(
            record.payload_id == payload_id(payload)
            and record.index >= from_index
            and record.position <= self.committed
            for record in self.records()
        )

    def cut_off(self, payload: int, from_index: int) -> None:
        left = self.held.pop(payload_id(payload), [])[:from_index]
        if left:
            self.held[payload_id(payload)] = left

    @rule(share=st.floats(0, 1))
    def commit(self, share: float) -> None:
        async def run(log: FlashLog) -> int:
            log.commit_through(int(log.head + share * (log.appended - log.head)))
            return log.head

        self.committed = self.loop.call(run)

    @rule()
    def restart(self) -> None:
        self.loop.stop()
        self.loop = self.open()

    def records(self) -> list[Record]:
        return self.loop.call(lambda log: log.records(0, limit=MAX, max_bytes=MAX))

    @invariant()
    def the_log_holds_what_the_model_holds(self) -> None:
        records = self.records()
        assert_contiguous([record.entry for record in records])
        bodies: dict[PayloadId, Bodies] = {}
        for record in records:
            bodies.setdefault(record.payload_id, []).append(record.body)
        assert bodies == self.held

    @invariant()
    def memory_shows_what_is_committed_and_holds_what_is_there(self) -> None:
        records = self.records()

        async def look(log: FlashLog) -> None:
            assert log.head == self.committed
            for after in range(log.appended + 1):
                recent, held = log.recent(after, MAX), log.recent_records(after, MAX)
                shown = [record.entry for record in records if after < record.position <= log.head]
                assert recent is None or recent == shown
                assert held is None or held == [record for record in records if record.position > after]
            assert log.statistics()["entries"] == len(records)
            assert log.statistics()["payloads"] == len(self.held)
            assert {peer: await log.cursor_of(peer) for peer in self.cursors} == self.cursors

        self.loop.call(look)

    @invariant()
    def the_file_is_good(self) -> None:
        report = verify(Path(self.folder.name))
        assert report.ok, report.problems


def flashblock_of(sent: Copy, body: bytes, index: int) -> Flashblock:
    return Flashblock(sent.payload_id, index, sent.block_number, None, None, body, sent.encoding)


TestReplicatedLog = ReplicatedLogMachine.TestCase
TestReplicatedLog.settings = settings(max_examples=30, stateful_step_count=20)
