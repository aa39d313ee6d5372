"""One block being built, over all builders: who may be shown, what was shown, and how it ended.

Several builds (forkchoice_updated calls) are one round when they are the same call sent again: the
builders then answer the same payload id and go on with the same block.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import BuildId, PayloadId, PayloadState
from appliance.flashblocks.commands import Reason
from appliance.flashblocks.stream import BuilderStream


@dataclass(slots=True, eq=False)
class Round:
    """State of one round. ``live`` are its builds that were not abandoned; without one nothing is shown.

    ``lead`` is the stream that is being validated or published; it is the ``owner`` from the moment its
    flashblock 0 is handed to the log, and then no other builder's stream can replace it (sticking).
    ``handed`` counts the flashblocks given to the log, which is the moment that cannot be taken back. ``since`` is when
    it began, in the clock's seconds.
    """

    parent_hash: str
    timestamp: int
    builders: tuple[str, ...]
    since: float = 0.0
    builds: set[BuildId] = field(default_factory=set)
    live: set[BuildId] = field(default_factory=set)
    streams: dict[str, BuilderStream] = field(default_factory=dict)
    confirmed: set[BuildId] = field(default_factory=set)
    lead: BuilderStream | None = None
    owner: BuilderStream | None = None
    handed: int = 0
    logged: int = 0
    validation_id: int | None = None
    paused: Reason | None = None
    fenced: bool = False
    sealed: AssembledPayload | None = None
    state: PayloadState | None = None
    block_number: int | None = None
    returned: str | None = None
    returned_whole: bool = False

    @property
    def is_open(self) -> bool:
        """Whether its flashblocks may be validated and shown now."""
        return bool(self.confirmed & self.live) and not self.fenced and self.paused is None

    @property
    def is_undecided(self) -> bool:
        """Whether subscribers were shown something whose fate is not known yet."""
        return self.state in (PayloadState.BUILDING, PayloadState.SEALED)

    def is_same_build(self, other: "Round") -> bool:
        """Whether both build on the same parent, for the same slot."""
        return (self.parent_hash, self.timestamp) == (other.parent_hash, other.timestamp)

    def has_payload(self, payload_id: PayloadId) -> bool:
        """Whether any builder answered ``payload_id`` for it."""
        return any(stream.payload_id == payload_id for stream in self.streams.values())

    def choose_lead(self, candidates: Iterable[BuilderStream]) -> None:
        """Choose whose flashblock 0 goes first, as long as none was shown: a stream without gap, then by rank.

        A lead that is well stays, so that its validation is not thrown away.
        """
        if self.owner is not None:
            return
        if self.lead is not None and self.lead.refused is None and not self.lead.gapped:
            return
        usable = [stream for stream in candidates if stream.flashblocks and stream.refused is None]
        self.lead = min(usable, key=lambda stream: (stream.gapped, self._rank(stream.builder)), default=None)

    def ready(self, *, execution: bool) -> int:
        """How many of the lead's flashblocks may be shown."""
        if self.lead is None:
            return 0
        return self.lead.validated if execution else len(self.lead.flashblocks)

    def disown(self) -> None:
        """Nothing was shown after all: any builder may still lead."""
        self.lead = self.owner = self.state = self.block_number = None

    def judge(self, block_hash: str, block_number: int | None) -> PayloadState | None:
        """How the payload fared now that ``block_hash`` is the head; None while that is open.

        Landed: the head is the owner's block with at least everything that was shown in it, or is known to hold
        it under a hash of its own (the EL has filled in the state root).
        """
        shown = self.owner.block_hashes[max(self.handed - 1, 0) :] if self.owner else []
        if block_hash in shown or (self.returned_whole and block_hash == self.returned):
            return PayloadState.LANDED
        if block_hash == self.returned:
            return PayloadState.DROPPED
        reached = block_number is not None and block_number >= (self.block_number or 0)
        return PayloadState.DROPPED if reached else None

    def silence(self) -> str:
        """Why nothing was shown, in words."""
        if self.paused is not None:
            return f"the stream is paused ({self.paused})"
        refused = [f"{name}: {stream.refused}" for name, stream in self.streams.items() if stream.refused]
        if refused:
            return ", ".join(refused)
        if not any(stream.next_index for stream in self.streams.values()):
            return "no flashblock came"
        return "none was validated in time" if self.confirmed else "the execution client has not confirmed the build"

    def release(self) -> None:
        """Forget the flashblocks: after the fence only their block hashes matter."""
        for stream in self.streams.values():
            stream.flashblocks.clear()
            stream.asked = stream.valid = None

    def _rank(self, builder: str) -> int:
        return self.builders.index(builder) if builder in self.builders else len(self.builders)
