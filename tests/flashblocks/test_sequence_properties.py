"""The promises of the published stream, under any order of events, against a simple oracle.

Whatever builders, engine, EL and log do: the stream of each payload is contiguous from 0, from one builder
only, of one body for a key; nothing is published after the fence, of a build that the EL did not confirm,
or (execution mode) that the EL did not call VALID; and seal answers exactly what was handed to the log.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus
from appliance.flashblocks.assembly import assemble
from appliance.flashblocks.commands import Append, Command, Reason, SetState, Validate
from appliance.flashblocks.sequence import MAX_ROUNDS, FlashblockSequence
from tests.flashblocks.making import (
    NUMBER,
    OTHER_PARENT,
    PARENT,
    StartedBuild,
    hash_of,
    make_base,
    make_flashblock,
    payload_id,
)
from tests.flashblocks.playbook import P, Playbook

BUILDERS = ("alpha", "beta", "gamma")
PAYLOADS = tuple(payload_id(number) for number in range(1, 4))
TERMINAL = (PayloadState.LANDED, PayloadState.DROPPED)


@dataclass
class BuildModel:
    """What the oracle knows of one build."""

    build_id: BuildId
    parent_hash: str
    confirmed: bool = False
    abandoned: bool = False
    sealed: bool = False
    answer: AssembledPayload | None = None
    joins: set[tuple[str, PayloadId]] = field(default_factory=set)

    @property
    def payloads(self) -> set[PayloadId]:
        return {payload for _, payload in self.joins}


class LogModel:
    """A log that refuses what the real one refuses, with what an earlier process may have left in it."""

    def __init__(self) -> None:
        self.bodies: dict[PayloadId, list[bytes]] = defaultdict(list)

    def append(self, flashblock: Flashblock) -> Reason | None:
        bodies = self.bodies[flashblock.payload_id]
        if flashblock.index < len(bodies):
            same = bodies[flashblock.index] == flashblock.body
            return None if same else Reason.LOG_EQUIVOCATION
        if flashblock.index > len(bodies):
            return Reason.LOG_FAILED
        bodies.append(flashblock.body)
        return None


class PublishedStream(RuleBasedStateMachine):
    """Drives the machine at random and judges every command."""

    execution = False

    def __init__(self) -> None:
        super().__init__()
        self.sequence = FlashblockSequence(execution=self.execution)
        self.now = 0.0
        self.builds: list[BuildModel] = []
        self.log = LogModel()
        self.pending: Append | None = None
        self.questions: list[Validate] = []
        self.valid: set[bytes] = set()
        self.handed: dict[PayloadId, list[Append]] = defaultdict(list)
        self.answered: set[PayloadId] = set()
        self.states: dict[PayloadId, list[PayloadState]] = defaultdict(list)
        self.next_index: dict[tuple[str, PayloadId], int] = defaultdict(int)

    @initialize(left=st.dictionaries(st.sampled_from(PAYLOADS), st.sampled_from(("alpha", "beta")), max_size=1))
    def an_earlier_process_left_entries(self, left: dict[PayloadId, str]) -> None:
        for payload, content in left.items():
            for index in range(2):
                self.log.append(make_flashblock(payload, index, content))

    # What the engine does

    @precondition(lambda self: len(self.builds) < MAX_ROUNDS)
    @rule(
        parent_hash=st.sampled_from((PARENT, PARENT, PARENT, OTHER_PARENT)),
        confirmed=st.booleans(),
        joins=st.lists(st.tuples(st.sampled_from(BUILDERS), st.sampled_from(PAYLOADS)), max_size=3),
    )
    def start(self, parent_hash: str, confirmed: bool, joins: list[tuple[str, PayloadId]]) -> None:
        build_id = BuildId(len(self.builds) + 1)
        build = BuildModel(build_id, parent_hash, confirmed, joins=set(joins))
        self.builds.append(build)
        self.sequence.build_started(StartedBuild(build_id, parent_hash, builders=BUILDERS), self.now)
        if confirmed:
            self.sequence.build_confirmed(build_id)
        for builder, payload in joins:
            self.sequence.builder_joined(build_id, builder, payload)
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        build = self.draw_build(data)
        build.confirmed = build.confirmed or not build.abandoned
        self.sequence.build_confirmed(build.build_id)
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        build = self.draw_build(data)
        build.abandoned = True
        self.sequence.build_abandoned(build.build_id)
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data(), builder=st.sampled_from(BUILDERS), payload=st.sampled_from(PAYLOADS))
    def join(self, data: st.DataObject, builder: str, payload: PayloadId) -> None:
        build = self.draw_build(data)
        build.joins.add((builder, payload))
        self.sequence.builder_joined(build.build_id, builder, payload)
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        build = self.draw_build(data)
        expected = dict(self.handed)
        answer = self.sequence.seal(build.build_id)
        if build.sealed:
            assert answer == build.answer
        elif answer is not None:
            shown = [command.flashblock for command in expected[answer.payload_id]]
            if answer.payload_id not in self.answered:
                assert answer == assemble(shown, builder=answer.builder, validated=self.execution)
            self.answered.add(answer.payload_id)
        build.sealed, build.answer = True, answer
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data(), content=st.sampled_from(BUILDERS), index=st.integers(0, 3))
    def block_returned(self, data: st.DataObject, content: str, index: int) -> None:
        block_hash = hash_of(f"{data.draw(st.sampled_from(PAYLOADS))}/{index}/{content}")
        self.sequence.payload_returned(self.draw_build(data).build_id, block_hash)
        self.judge()

    @rule(
        payload=st.sampled_from(PAYLOADS),
        content=st.sampled_from((*BUILDERS, "elsewhere")),
        index=st.integers(0, 3),
        number=st.sampled_from((None, NUMBER - 1, NUMBER)),
    )
    def head(self, payload: PayloadId, content: str, index: int, number: int | None) -> None:
        before = set(self.answered)
        self.sequence.head_changed(hash_of(f"{payload}/{index}/{content}"), number)
        self.judge()
        for fated, states in self.states.items():
            if states and states[-1] in TERMINAL:
                self.answered.add(fated)
        assert before <= self.answered

    # What builders, EL and log do

    @rule(
        builder=st.sampled_from(BUILDERS),
        payload=st.sampled_from(PAYLOADS),
        skew=st.sampled_from((-1, 0, 1)),
        content=st.sampled_from(("", "", "equal", "other")),
        parent_hash=st.sampled_from((None, PARENT, OTHER_PARENT)),
    )
    def odd_flashblock(
        self, builder: str, payload: PayloadId, skew: int, content: str, parent_hash: str | None
    ) -> None:
        index = max(0, self.next_index[builder, payload] + skew)
        base = make_base(parent_hash) if parent_hash else None
        made = make_flashblock(payload, index, content or builder, base=base)
        self.sequence.flashblock(builder, made, self.now)
        self.judge()

    @precondition(lambda self: self.builds)
    @rule(data=st.data(), how_many=st.integers(1, 4), content=st.sampled_from(("", "", "equal")))
    def next_flashblocks(self, data: st.DataObject, how_many: int, content: str) -> None:
        """In order, mostly of a payload that the builder has announced."""
        anything = [(builder, payload) for builder in BUILDERS for payload in PAYLOADS]
        builder, payload = data.draw(st.sampled_from(sorted(self.builds[-1].joins) or anything))
        base = make_base(self.builds[-1].parent_hash)
        for _ in range(how_many):
            index = self.next_index[builder, payload]
            self.next_index[builder, payload] += 1
            made = make_flashblock(payload, index, content or builder, base=None if index else base)
            self.sequence.flashblock(builder, made, self.now)
            self.judge()

    @rule(builder=st.sampled_from(BUILDERS), payload=st.sampled_from(PAYLOADS))
    def builder_begins_again(self, builder: str, payload: PayloadId) -> None:
        self.next_index[builder, payload] = 0

    @rule()
    def el_and_log_are_quick(self) -> None:
        for _ in range(20):
            if self.questions:
                self.answer(0, PayloadStatus.VALID)
            if self.pending:
                self.log_says(fails=False)

    @precondition(lambda self: self.questions)
    @rule(
        data=st.data(),
        status=st.sampled_from((PayloadStatus.VALID,) * 5 + (*PayloadStatus, None)),
    )
    def verdict(self, data: st.DataObject, status: PayloadStatus | None) -> None:
        self.answer(data.draw(st.integers(0, len(self.questions) - 1)), status)

    def answer(self, number: int, status: PayloadStatus | None) -> None:
        question = self.questions.pop(number)
        if status is PayloadStatus.VALID:
            self.valid.add(question.payload.execution_payload)
        self.sequence.validated(question.validation_id, status)
        self.judge()

    @precondition(lambda self: self.pending)
    @rule(fails=st.sampled_from((False,) * 6 + (True,)))
    def log_answers(self, fails: bool) -> None:
        self.log_says(fails=fails)

    def log_says(self, *, fails: bool) -> None:
        command, self.pending = self.pending, None
        assert command is not None
        payload = command.flashblock.payload_id
        reason = Reason.LOG_FAILED if fails else self.log.append(command.flashblock)
        if reason is None:
            self.sequence.appended()
        else:
            if payload not in self.answered:
                self.handed[payload].pop()
            self.sequence.append_failed(reason)
        self.judge()

    @rule(seconds=st.sampled_from((0.1, 3.0, 20.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # The oracle

    def draw_build(self, data: st.DataObject) -> BuildModel:
        """Mostly a recent one."""
        from_the_end = data.draw(st.integers(1, min(3, len(self.builds))))
        return self.builds[-from_the_end]

    def judge(self) -> None:
        for command in self.sequence.take_commands():
            self.judge_command(command)

    def judge_command(self, command: Command) -> None:
        if isinstance(command, Append):
            assert self.pending is None, "one append at a time"
            self.judge_append(command)
            self.pending = command
            self.handed[command.flashblock.payload_id].append(command)
        elif isinstance(command, Validate):
            self.questions.append(command)
        elif isinstance(command, SetState):
            self.judge_state(command)

    def judge_append(self, command: Append) -> None:
        payload = command.flashblock.payload_id
        before = self.handed[payload]
        assert command.flashblock.index == len(before), "contiguous from 0, one body for a key"
        assert {earlier.builder for earlier in before} <= {command.builder}, "one builder"
        assert payload not in self.answered, "nothing after the fence"
        newest = self.builds[-1]
        assert not newest.sealed, "nothing after the fence"
        group = self.same_builds(newest)
        assert any((command.builder, payload) in build.joins for build in group), "announced"
        assert any(build.confirmed and not build.abandoned for build in group), "confirmed"
        if self.execution:
            shown = [earlier.flashblock for earlier in before] + [command.flashblock]
            assembled = assemble(shown, builder=command.builder)
            assert assembled is not None
            assert assembled.execution_payload in self.valid, "VALID"

    def judge_state(self, command: SetState) -> None:
        states = self.states[command.payload_id]
        assert not states or states[-1] not in TERMINAL, "a payload's fate is told once"
        if command.state is PayloadState.SEALED:
            self.answered.add(command.payload_id)
        states.append(command.state)

    def same_builds(self, newest: BuildModel) -> list[BuildModel]:
        """The builds that may be one with ``newest``: same parent, linked by shared payload ids."""
        group, payloads, grown = [newest], set(newest.payloads), True
        while grown:
            more = [
                build
                for build in self.builds
                if build not in group and build.parent_hash == newest.parent_hash and build.payloads & payloads
            ]
            grown = bool(more)
            group += more
            payloads.update(*(build.payloads for build in more))
        return group

    @invariant()
    def at_most_one_question_per_round(self) -> None:
        assert len(self.questions) <= max(1, len(self.builds))


class ExecutionStream(PublishedStream):
    """The same in execution mode."""

    execution = True


TestStructural = PublishedStream.TestCase
TestStructural.settings = settings(max_examples=150, stateful_step_count=60)
TestExecution = ExecutionStream.TestCase
TestExecution.settings = settings(max_examples=150, stateful_step_count=60)


# Nothing is lost either: one good builder is shown whole, however the answers are ordered.


def interleavings(events: list[list[str]], draw: st.DrawFn) -> Iterator[str]:
    queues = [list(queue) for queue in events]
    while any(queues):
        chosen = draw(st.sampled_from([queue for queue in queues if queue]))
        yield chosen.pop(0)


@st.composite
def races(draw: st.DrawFn) -> list[str]:
    """start, then confirm, join, five flashblocks and the answers of log and EL, raced against each other."""
    builder = ["send"] * 5
    return list(interleavings([["start", "confirm"], ["join"], builder, ["answer"] * draw(st.integers(0, 8))], draw))


@pytest.mark.parametrize("execution", [False, True])
@given(events=races())
def test_a_complete_stream_is_shown_whole_whatever_comes_first(*, execution: bool, events: list[str]) -> None:
    book = Playbook(execution=execution)
    indices = count()
    if events.index("join") < events.index("start"):
        events.remove("join")
        events.insert(events.index("start") + 1, "join")
    for event in events:
        match event:
            case "start":
                book.start(1)
            case "confirm":
                book.confirm(1)
            case "join":
                book.join(1)
            case "send":
                book.send(next(indices))
            case "answer":
                answer_all(book, once=True)
    answer_all(book, once=False)
    assert book.shown == [("alpha", index) for index in range(5)]
    sealed = book.seal()
    assert sealed == assemble(book.handed, builder="alpha", validated=execution)
    assert sealed is not None
    assert sealed.payload_id == P


@pytest.mark.parametrize("execution", [False, True])
@given(
    sent=st.lists(
        st.tuples(st.sampled_from(BUILDERS), st.integers(0, 4), st.sampled_from(("", "", "", "second body"))),
        max_size=40,
    ),
    same_id=st.booleans(),
)
def test_one_payload_is_shown_from_one_builder_whatever_the_builders_send(
    *, execution: bool, sent: list[tuple[str, int, str]], same_id: bool
) -> None:
    book = Playbook(execution=execution)
    book.begin(1)
    ids = dict(zip(BUILDERS, (P, P, P) if same_id else PAYLOADS, strict=True))
    for builder, payload in ids.items():
        book.join(1, builder, payload)
    for builder, index, content in sent:
        book.send(index, builder, ids[builder], content and f"{builder} {content}")
        answer_all(book, once=False)
    assert [index for _, index in book.shown] == list(range(len(book.shown)))
    assert len({builder for builder, _ in book.shown}) <= 1
    assert len(book.shown) == longest(book, sent)


def longest(book: Playbook, sent: list[tuple[str, int, str]]) -> int:
    """How far the owner came before its first fault, or a gap that was never filled."""
    owner = next((builder for builder, _ in book.shown), None)
    bodies: dict[int, str] = {}
    for builder, index, content in sent:
        if builder != owner:
            continue
        if index < len(bodies) and bodies[index] != content:
            break
        if index == len(bodies):
            bodies[index] = content
    return len(bodies)


def answer_all(book: Playbook, *, once: bool) -> None:
    """VALID and "on disk" to what is asked, one each or until nothing is asked any more."""
    while True:
        open_questions = book.sequence.statistics()["validating"]
        if open_questions:
            book.verdict()
        appending = book.sequence.statistics()["appending"]
        if appending:
            book.appended()
        if once or not (open_questions or appending):
            return
