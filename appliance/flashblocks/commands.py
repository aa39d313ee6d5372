"""What the sequence machine asks its shell to do, and what it wants known."""

from dataclasses import dataclass
from enum import StrEnum

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId, PayloadState


class Reason(StrEnum):
    """Why a flashblock is not shown to subscribers, or why a builder's stream stops for a payload."""

    LATE = "late"  # it came after the fence
    UNPUBLISHED = "unpublished"  # it was held when the fence came
    REPLACED = "replaced"  # a newer build had replaced its own
    UNANNOUNCED = "unannounced"  # no builder's forkchoice_updated answer ever named its payload id
    PAUSED = "paused"  # its stream had been stopped for another reason
    DUPLICATE = "duplicate"  # the same body again
    GAP = "gap"  # its index is not the next one
    EQUIVOCATION = "equivocation"  # another body for an index that the builder had sent
    BASE_MISSING = "base_missing"
    BASE_CHANGED = "base_changed"
    DIFF_MISSING = "diff_missing"
    BLOCK_NUMBER = "block_number"  # it has none, or another than the flashblocks before it
    WRONG_BUILD = "wrong_build"  # its base is not on the build's parent or not of its timestamp
    TOO_MUCH = "too_much"  # more flashblocks or bytes than one payload may have
    INVALID = "invalid"  # the EL refused the block so far
    NOT_VALIDATED = "not_validated"  # the EL gave no verdict, again and again
    LOG_EQUIVOCATION = "log_equivocation"  # the log holds another body for the key
    LOG_FAILED = "log_failed"


@dataclass(frozen=True, slots=True)
class Validate:
    """Ask the local EL about ``payload``, ``delay_s`` seconds from now; answer with `validated`."""

    validation_id: int
    payload: AssembledPayload
    delay_s: float


@dataclass(frozen=True, slots=True)
class Append:
    """Hand ``flashblock``, which came at ``arrived_at``, to the log; answer with `appended` or `append_failed`.

    From here on it counts as shown.
    """

    flashblock: Flashblock
    builder: str
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Offer ``flashblock``, a second body for a key that is on disk, to the log: it refuses it and keeps it."""

    flashblock: Flashblock
    builder: str


@dataclass(frozen=True, slots=True)
class SetState:
    """Record how a payload fared, after the appends before it."""

    payload_id: PayloadId
    state: PayloadState
    block_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a payload that subscribers were shown, for people: LANDED or DROPPED."""

    payload_id: PayloadId
    state: PayloadState
    block_number: int | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """``count`` flashblocks are not taken; ``index`` is the (first) one's."""

    reason: Reason
    builder: str
    payload_id: PayloadId
    index: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Paused:
    """``builder``'s stream of a payload goes no further. ``published`` says whether subscribers notice."""

    reason: Reason
    builder: str
    payload_id: PayloadId
    index: int
    published: bool


@dataclass(frozen=True, slots=True)
class Sealed:
    """The fence came: ``published`` flashblocks were handed to the log, ``missing`` ones were not."""

    payload_id: PayloadId
    builder: str
    published: int
    missing: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """getPayload came for a build that began at ``since``: so many of its flashblocks were ``handed`` to the log.

    ``builders`` are those that took part; ``payload_id`` is the stream's, where there is one; ``reason`` is why nothing
    was handed, in words.
    """

    since: float
    builders: tuple[str, ...]
    payload_id: PayloadId | None
    handed: int
    reason: str


LogCommand = Append | SetState | Evidence
Command = Validate | LogCommand | Dropped | Paused | Sealed | Fate | Fenced
