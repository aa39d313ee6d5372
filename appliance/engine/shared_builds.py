"""The builds of the builder listener: what is remembered of each, and when two orders are one or rivals."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.events import Requested
from appliance.engine.offers import Block, BuildOrder, Offer
from appliance.engine.ports import Build
from appliance.wire.engine import ForkchoiceUpdated, NewPayload
from appliance.wire.engine_answers import BuiltPayload
from appliance.wire.engine_bodies import assembled_answer, payload_answer
from appliance.wire.jsonrpc import MALFORMED

MAX_BUILDS: Final = 16
"""Builds kept; the oldest is forgotten, and a getPayload for it is answered with "unknown payload"."""

BUILDING_S: Final = 4.0
"""How long an order keeps others on the same parent away, in seconds: two block times of OP Mainnet."""

MAX_NUMBERS: Final = 1024
"""Blocks whose numbers are remembered: half an hour, or what a sequencer that catches up sends in seconds."""

_NO_PAYLOAD_ID: Final = PayloadId("")


@dataclass(slots=True)
class SharedBuild:
    """One order to build, of whoever sent it first, and all who sent the same.

    ``unanswered`` are the orders and ``askers`` the getPayload requests that wait (the server's connections bound
    both). ``answer`` is the first builder's, and its ``payload_id`` the one that sequencers know. ``refusals`` are
    (rank, body) of those who do not build. ``offers`` are there while the block is being chosen; ``overdue`` says
    that the choice ended at its deadline.
    """

    build: Build
    order: BuildOrder
    key: bytes
    started_at: float
    unanswered: list[Requested] = field(default_factory=list)
    answer: bytes = b""
    payload_id: PayloadId = _NO_PAYLOAD_ID
    joined: dict[str, PayloadId] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    failed: bool = False
    abandoned: bool = False
    askers: list[Requested] = field(default_factory=list)
    version: int = 0
    asked_at: float = 0.0
    deadline: float = 0.0
    unhealthy: frozenset[str] = frozenset()
    offers: dict[str, Offer] | None = None
    promised: tuple[bytes, ...] = ()
    owner: str | None = None
    chosen: Block | None = None
    overdue: bool = False

    @property
    def build_id(self) -> BuildId:
        """Our own number of it."""
        return self.build.build_id

    @property
    def is_building(self) -> bool:
        """Whether its block is still to be asked for; not again after a getPayload that found none."""
        return not self.failed and not self.version

    @property
    def is_choosing(self) -> bool:
        """Whether its block is being chosen."""
        return self.offers is not None

    def begin_choice(self, version: int, now: float, deadline: float, unhealthy: frozenset[str]) -> None:
        """getPayload came."""
        self.overdue = False
        self.version, self.asked_at, self.deadline, self.unhealthy = version, now, deadline, unhealthy
        ranks = enumerate(self.build.builders)
        self.offers = {name: Offer(name, rank, name) for rank, name in ranks if name not in self.absent}

    def promise(self, assembled: AssembledPayload) -> None:
        """What subscribers were shown; beyond the forced transactions it is a promise."""
        self.owner = assembled.builder
        if len(assembled.transactions) > len(self.order.transactions):
            self.promised = assembled.transactions

    def answer_for(self, identifier: bytes) -> bytes:
        """getPayload's answer once it is chosen."""
        if isinstance(self.chosen, BuiltPayload):
            return payload_answer(self.chosen, identifier)
        if self.chosen is None:
            raise RuntimeError(f"build {self.build_id} has no block")
        return assembled_answer(self.chosen, identifier, self.version)


class SharedBuilds:
    """The latest builds, by number, by the payload id that sequencers know, and by what was ordered."""

    def __init__(self, build_ids: Iterator[int]) -> None:
        self._ids = build_ids
        self._builds: OrderedDict[BuildId, SharedBuild] = OrderedDict()
        self._numbers: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._builds)

    def start(self, call: ForkchoiceUpdated, builders: tuple[str, ...], now: float) -> SharedBuild:
        """A new build; the oldest one is forgotten when there are too many."""
        if call.attributes is None:
            raise RuntimeError("a build has attributes")
        build = Build(BuildId(next(self._ids)), call.head, call.attributes.timestamp, builders)
        order = BuildOrder.asked(call.head, call.attributes)
        started = self._builds[build.build_id] = SharedBuild(build, order, key_of(call), now)
        if len(self._builds) > MAX_BUILDS:
            self._builds.popitem(last=False)
        return started

    def same(self, call: ForkchoiceUpdated) -> SharedBuild | None:
        """The newest build of the same head and attributes, unless nobody built it or another one took its place."""
        key = key_of(call)
        alike = (each for each in reversed(self._builds.values()) if each.key == key)
        return next((each for each in alike if not each.failed and not each.abandoned), None)

    def rival(self, call: ForkchoiceUpdated, now: float) -> SharedBuild | None:
        """A build on the same parent that is not finished."""
        return next((each for each in self._alive(now) if each.order.parent_hash == call.head), None)

    def unfinished(self) -> list[SharedBuild]:
        """Builds that a new one takes the place of."""
        return [each for each in self._builds.values() if each.is_building and not each.abandoned]

    def leave(self, head: str) -> list[SharedBuild]:
        """Builds that are behind now that this is the head."""
        return [each for each in self.unfinished() if each.order.parent_hash != head]

    def name(self, build: SharedBuild, payload_id: PayloadId) -> None:
        """Sequencers are told this id."""
        build.payload_id = payload_id

    def by_id(self, build_id: BuildId) -> SharedBuild | None:
        """The build of that number, unless it is forgotten."""
        return self._builds.get(build_id)

    def by_payload_id(self, payload_id: PayloadId) -> SharedBuild | None:
        """The newest build that sequencers know by this id."""
        return next((each for each in reversed(self._builds.values()) if each.payload_id == payload_id), None)

    def remember_block(self, call: NewPayload) -> None:
        """A block that a sequencer showed us; the oldest is forgotten when there are too many."""
        if call.block_hash is None or call.block_number is None:
            return
        self._numbers[call.block_hash] = call.block_number
        if len(self._numbers) > MAX_NUMBERS:
            self._numbers.popitem(last=False)

    def number_of(self, block_hash: str) -> int | None:
        """The number of a block that was chosen or shown here; None of others."""
        chosen = (each.chosen for each in self._builds.values() if each.chosen is not None)
        found = next((block.block_number for block in chosen if block.block_hash == block_hash), None)
        return self._numbers.get(block_hash) if found is None else found

    def beyond(self, head: str, now: float) -> SharedBuild | None:
        """A build that is not finished on a parent that is known to be higher than this block."""
        number = self.number_of(head)
        if number is None:
            return None
        parents = ((each, self.number_of(each.order.parent_hash)) for each in self._alive(now))
        return next((each for each, parent in parents if parent is not None and parent > number), None)

    def _alive(self, now: float) -> list[SharedBuild]:
        return [each for each in self.unfinished() if now - each.started_at < BUILDING_S]


def key_of(call: ForkchoiceUpdated) -> bytes:
    """Equal for equal head and attributes.

    Two sequencers need not agree on what is safe and finalized, nor write their JSON in the same order. Attributes
    with a value that is not for us to read (a number out of range) are only equal byte for byte.
    """
    try:
        elements = msgspec.json.decode(call.params)
        return call.head.encode() + msgspec.json.encode(elements[1], order="sorted")
    except MALFORMED:
        return call.head.encode() + call.params
