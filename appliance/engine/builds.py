"""Builds: what is remembered of each forkchoice_updated with attributes, under the payload ids it was given."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.events import Requested
from appliance.engine.offers import Block, BuildOrder
from appliance.engine.ports import Build
from appliance.engine.selection import Selection
from appliance.wire.engine import Attributes, ForkchoiceUpdated

MAX_BUILDS: Final = 16
"""Builds kept: op-node asks for the newest, at times for the one before. The oldest is forgotten: a
getPayload for it then goes to the EL alone. Each keeps the block that was returned, up to some MB."""


_NO_PAYLOAD_ID: Final = PayloadId("")


class Phase(StrEnum):
    """How far a build has come.

    building --getPayload--> sealing --Sealed--> choosing --chosen--> answered
        |                                            `---nothing----> failed --getPayload--> sealing
        `--getPayload of the EL alone--> passed --getPayload that we can choose for--> sealing

    answered --the EL calls the block INVALID after all--> failed
    """

    BUILDING = "building"
    SEALING = "sealing"
    CHOOSING = "choosing"
    ANSWERED = "answered"
    FAILED = "failed"
    PASSED = "passed"


@dataclass(slots=True)
class BuildRecord:
    """One build over all upstreams.

    ``params`` are forkchoice_updated's as they came. ``mode`` is the one that it is chosen under: that of its
    start, but DISABLED from the moment of that switch on. ``streamed`` says that the flashblock stream was
    told of it: what cannot land is not shown. ``joined`` and ``absent`` hold the builders that have
    answered; those in neither still may. ``declined`` are the absent ones that agreed with the head and would not
    build: a builder listener answers so when another sequencer was first. ``askers`` are the getPayload requests
    that wait for the choice (the server's connections bound them). ``last_word`` is what the EL answered to
    getPayload when that was no block that we can read: it is passed on when there is nothing better.
    ``chosen_builder`` is None for the EL's own, and ``chosen_completed`` says that the EL has filled in its state
    root. ``barred`` are the builders whose block was returned and then found INVALID, with the reason.
    """

    build: Build
    order: BuildOrder
    params: bytes
    mode: ExecutionMode = ExecutionMode.ENABLED
    streamed: bool = True
    phase: Phase = Phase.BUILDING
    confirmed: bool = False
    abandoned: bool = False
    joined: dict[str, PayloadId] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    declined: set[str] = field(default_factory=set)
    askers: list[Requested] = field(default_factory=list)
    version: int = 0
    payload_id: PayloadId = _NO_PAYLOAD_ID
    asked_at: float = 0.0
    deadline: float = 0.0
    selection: Selection | None = None
    last_word: bytes = b""
    chosen: Block | None = None
    chosen_builder: str | None = None
    chosen_completed: bool = False
    barred: dict[str, str] = field(default_factory=dict)

    @property
    def build_id(self) -> BuildId:
        """Our own number of it."""
        return self.build.build_id

    @property
    def builders(self) -> tuple[str, ...]:
        """Those that were asked to build, and still count."""
        return () if self.mode is ExecutionMode.DISABLED else self.build.builders


class BuildBook:
    """The latest builds, found by number and by the EL's payload id; of two builds of one id the newer."""

    def __init__(self) -> None:
        self._records: OrderedDict[BuildId, BuildRecord] = OrderedDict()
        self._by_payload_id: dict[PayloadId, BuildRecord] = {}
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[BuildRecord]:
        return iter(self._records.values())

    def start(
        self,
        call: ForkchoiceUpdated,
        attributes: Attributes,
        builders: tuple[str, ...],
        mode: ExecutionMode = ExecutionMode.ENABLED,
    ) -> BuildRecord:
        """A new build; the oldest one is forgotten when there are too many."""
        self._last_id += 1
        build = Build(BuildId(self._last_id), call.head, attributes.timestamp, builders)
        order = BuildOrder.asked(call.head, attributes)
        streamed = mode is ExecutionMode.ENABLED
        record = BuildRecord(build, order, call.params, mode, streamed)
        if len(self._records) == MAX_BUILDS:
            self._forget(self._oldest())
        self._records[record.build_id] = record
        return record

    def _oldest(self) -> BuildRecord:
        """The oldest, but for those whose getPayload waits: it would wait past its deadline, which goes by number."""
        idle = (each for each in self._records.values() if each.phase not in {Phase.SEALING, Phase.CHOOSING})
        return next(idle, next(iter(self._records.values())))

    def newest(self) -> BuildRecord | None:
        """The build that was started last."""
        return next(reversed(self._records.values()), None)

    def name(self, record: BuildRecord, payload_id: PayloadId) -> None:
        """The EL gave the build this id; an answer that was overtaken does not take it from a newer build."""
        named = self._by_payload_id.get(payload_id, record)
        if record.build_id in self._records and named.build_id <= record.build_id:
            self._by_payload_id[payload_id] = record

    def by_id(self, build_id: BuildId) -> BuildRecord | None:
        """The build of that number, unless it is forgotten."""
        return self._records.get(build_id)

    def by_payload_id(self, payload_id: PayloadId) -> BuildRecord | None:
        """The build that the EL gave this id to."""
        return self._by_payload_id.get(payload_id)

    def by_block(self, block_hash: str) -> BuildRecord | None:
        """The build that was answered with this block."""
        return next((each for each in self._records.values() if each.chosen and _is(each.chosen, block_hash)), None)

    def remember_block(self, block_hash: str, number: int) -> None:
        """A block that op-node got; the oldest is forgotten when there are too many."""
        self._numbers[block_hash] = number
        if len(self._numbers) > MAX_BUILDS:
            self._numbers.popitem(last=False)

    def number_of(self, block_hash: str) -> int | None:
        """The number of a block that op-node got of us; None of others."""
        return self._numbers.get(block_hash)

    def _forget(self, record: BuildRecord) -> None:
        del self._records[record.build_id]
        for payload_id in [key for key, value in self._by_payload_id.items() if value is record]:
            del self._by_payload_id[payload_id]


def _is(block: Block, block_hash: str) -> bool:
    return block.block_hash.lower() == block_hash
