"""The multiplexer with the real flashblock sequence behind it, under anything that may happen in any order.

On top of what test_stateful.py holds, the log is watched: what is in it was shown to subscribers. Of one payload it has

* the flashblocks of one builder, contiguous from 0, one body each;
* none that the EL did not call VALID;
* none that was handed to it after the fence (getPayload), nor while builders were switched off or rehearsed.
"""

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Encoding, Flashblock, FlashblockBase, FlashblockDiff
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId, PayloadStatus
from appliance.engine import events as ev
from appliance.engine.events import Event
from appliance.flashblocks.commands import Append, Reason, Validate
from appliance.flashblocks.sequence import FlashblockSequence
from tests.engine import messages as m
from tests.engine.test_stateful import BUILDERS, ENABLED, SLOTS, EngineMachine, Stream
from tests.flashblocks.making import hash_of


def payload_of(slot: int) -> PayloadId:
    """What every builder answers to the order for a slot: they compute the id by one rule."""
    return PayloadId(f"0xb{SLOTS.index(slot)}")


def flashblock_of(slot: int, index: int, builder: str, variant: int) -> Flashblock:
    """A builder's flashblock; another ``variant`` is another body for the same key."""
    name = f"{builder}'s {index} of {slot}, {variant}"
    base = FlashblockBase(
        parent_beacon_block_root=m.ROOT,
        parent_hash=m.PARENT,
        fee_recipient=m.FEE_RECIPIENT,
        prev_randao=m.ROOT,
        block_number="0x7",
        gas_limit=hex(m.GAS_LIMIT),
        timestamp=hex(slot),
        extra_data="0x",
        base_fee_per_gas="0x1",
    )
    transaction = m.DEPOSIT if index == 0 else hash_of(name)
    diff = FlashblockDiff(
        state_root=m.ROOT,
        receipts_root=m.ROOT,
        logs_bloom="0x",
        gas_used="0x5208",
        block_hash=hash_of(name),
        transactions=[msgspec.Raw(f'"{transaction}"'.encode())],
        withdrawals=[],
        withdrawals_root=m.ROOT,
    )
    first = base if index == 0 else None
    return Flashblock(payload_of(slot), index, 7, first, diff, name.encode(), Encoding.TEXT)


class Log:
    """The flashblock log's rules: one body for a key, no gaps."""

    def __init__(self) -> None:
        self.payloads: dict[PayloadId, list[tuple[str, bytes]]] = {}

    def append(self, command: Append) -> Reason | None:
        """Take it, or say why not."""
        flashblock, taken = command.flashblock, self.payloads.setdefault(command.flashblock.payload_id, [])
        assert flashblock.index <= len(taken), "a gap"
        if flashblock.index == len(taken):
            taken.append((command.builder, flashblock.body))
            return None
        return None if taken[flashblock.index][1] == flashblock.body else Reason.LOG_EQUIVOCATION


class RealStream(Stream):
    """A playbook that tells its stream commands to the real sequence, as the executor does."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.sequence = FlashblockSequence(execution=True)
        self.started: dict[BuildId, int] = {}
        self.may_show: set[int] = set()  # slots with a build that was neither fenced nor switched off since its order
        self.appends: list[Append] = []
        self.asked: list[Validate] = []
        self._told = 0

    def sealed(self, build_id: BuildId) -> AssembledPayload | None:
        """Told in order: everything that came before the fence is before it."""
        self.pass_on()
        sealed = self.sequence.seal(build_id)
        self.may_show.discard(self.started.get(build_id, 0))
        self.collect()
        return sealed

    def tell(self, event: Event) -> None:
        super().tell(event)
        self.pass_on()

    def pass_on(self) -> None:
        fresh, self._told = self.log[self._told :], len(self.log)
        for command in fresh:
            self.notify(command)
            self.collect()

    def notify(self, command: Any) -> None:
        match command:
            case ev.BuildStarted(build):
                self.started[build.build_id] = build.timestamp
                self.may_show.add(build.timestamp)
                self.sequence.build_started(build, self.now)
            case ev.BuildConfirmed(build_id):
                self.sequence.build_confirmed(build_id)
            case ev.BuildAbandoned(build_id):
                self.sequence.build_abandoned(build_id)
            case ev.BuilderJoined(build_id, builder, payload_id):
                self.sequence.builder_joined(build_id, builder, payload_id)
            case ev.PayloadReturned(build_id, block_hash, holds_all):
                self.sequence.payload_returned(build_id, block_hash, holds_all=holds_all)
            case ev.HeadChanged(block_hash, number):
                self.sequence.head_changed(block_hash, number)

    def collect(self) -> None:
        """What the sequence wants done; a flashblock that is handed to the log must be one that may be shown."""
        for command in self.sequence.take_commands():
            if isinstance(command, Append):
                slot = SLOTS[int(command.flashblock.payload_id[-1])]
                assert slot in self.may_show, "handed to the log after the fence or the switch"
                self.appends.append(command)
            elif isinstance(command, Validate):
                self.asked.append(command)


class WholeMachine(EngineMachine):
    """The same rules, and those of builders' websockets, the EL's word on flashblocks, and the log."""

    play: RealStream

    def make_play(self, policy: str) -> RealStream:
        return RealStream(policy)

    @initialize()
    def empty_log(self) -> None:
        self.disk = Log()

    @rule(
        slot=st.sampled_from(SLOTS),
        builder=st.sampled_from(BUILDERS),
        index=st.integers(0, 3),
        variant=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def a_flashblock_comes(self, slot: int, builder: str, index: int, variant: int) -> None:
        self.play.sequence.flashblock(builder, flashblock_of(slot, index, builder, variant), self.play.now)
        self.play.collect()

    @rule(slot=st.sampled_from(SLOTS), builder=st.sampled_from(BUILDERS), data=st.data())
    def a_stream_is_shown(self, slot: int, builder: str, data: st.DataObject) -> None:
        """The usual way, which chance alone would seldom find."""
        self.order_build(slot)
        self.answer_all(data)
        for index in range(3):
            self.a_flashblock_comes(slot, builder, index, 0)
            self.the_el_judges_a_flashblock(PayloadStatus.VALID)
            self.the_log_answers(fails=False)

    @rule(status=st.sampled_from([PayloadStatus.VALID, PayloadStatus.VALID, PayloadStatus.INVALID, None]))
    def the_el_judges_a_flashblock(self, status: PayloadStatus | None) -> None:
        if self.play.asked:
            command = self.play.asked.pop(0)
            if status is PayloadStatus.VALID:
                self.valid.add(command.payload.block_hash)
            self.play.sequence.validated(command.validation_id, status)
            self.play.collect()

    @rule(fails=st.sampled_from([False, False, False, True]))
    def the_log_answers(self, fails: bool) -> None:
        if not self.play.appends:
            return
        command = self.play.appends.pop(0)
        failure = Reason.LOG_FAILED if fails else self.disk.append(command)
        if failure is None:
            assert command.flashblock.diff is not None
            assert command.flashblock.diff.block_hash in self.valid, "shown without the EL's VALID"
            self.play.sequence.appended()
        else:
            self.play.sequence.append_failed(failure)
        self.play.collect()

    @rule(mode=st.sampled_from([ENABLED, ENABLED, *ExecutionMode]))
    def somebody_throws_the_switch(self, mode: ExecutionMode) -> None:
        """Back to enabled more often than not, or there would be few streams."""
        if mode is ExecutionMode.DISABLED:
            self.play.may_show.clear()
        super().somebody_throws_the_switch(mode)

    @invariant()
    def no_stream_mixes_builders(self) -> None:
        for payload_id, entries in getattr(self, "disk", Log()).payloads.items():
            assert len({builder for builder, _ in entries}) <= 1, f"{payload_id}: {entries}"

    @invariant()
    def one_append_at_a_time(self) -> None:
        assert not hasattr(self, "play") or len(self.play.appends) <= 1


TestWhole = WholeMachine.TestCase
TestWhole.settings = settings(max_examples=150, stateful_step_count=40)
