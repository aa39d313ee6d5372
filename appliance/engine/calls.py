"""What each call to an upstream is for: kept from its command until its outcome comes."""

from dataclasses import dataclass

from appliance.domain.payloads import PayloadId
from appliance.engine.builds import BuildRecord
from appliance.engine.events import CallId, Requested
from appliance.engine.selection import Selection


@dataclass(frozen=True, slots=True)
class Forward:
    """The EL's answer goes to op-node as it is, with any HTTP status."""

    request: Requested


@dataclass(frozen=True, slots=True)
class BlockAtEl:
    """The EL's word on op-node's newPayload of ``block_hash``, which may be ours; None when it cannot be read."""

    request: Requested
    block_hash: str | None


@dataclass(frozen=True, slots=True)
class ForkchoiceAtEl:
    """The EL's answer to forkchoice_updated; ``record`` when it starts a build."""

    request: Requested
    head: str
    record: BuildRecord | None


@dataclass(frozen=True, slots=True)
class BuildAtBuilder:
    """A builder's answer to forkchoice_updated with attributes."""

    record: BuildRecord
    builder: str


@dataclass(frozen=True, slots=True)
class PlainPayload:
    """getPayload of the EL alone; ``record`` when it is for a build that we know."""

    request: Requested
    version: int
    payload_id: PayloadId
    record: BuildRecord | None
    asked_at: float


@dataclass(frozen=True, slots=True)
class LocalPayload:
    """getPayload of the EL, one of the sources of a selection."""

    record: BuildRecord
    selection: Selection


@dataclass(frozen=True, slots=True)
class BuilderPayload:
    """getPayload of a builder, one of the sources of a selection."""

    record: BuildRecord
    selection: Selection
    builder: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """newPayload of a candidate on the EL."""

    record: BuildRecord
    selection: Selection
    source: str


@dataclass(frozen=True, slots=True)
class Completing:
    """The EL's answer to the order to build a candidate's transactions (completion.py)."""

    record: BuildRecord
    selection: Selection
    source: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The EL's block of a candidate's transactions."""

    record: BuildRecord
    selection: Selection
    source: str


Question = LocalPayload | BuilderPayload | Judgement | Completing | Completion
"""Calls that are made for a choice."""

Purpose = Forward | BlockAtEl | ForkchoiceAtEl | BuildAtBuilder | PlainPayload | Question


class CallTable:
    """Numbers the calls. Its size is bounded by the shell: each call ends within its upstream's timeout."""

    def __init__(self) -> None:
        self._purposes: dict[CallId, Purpose] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._purposes)

    def open(self, purpose: Purpose) -> CallId:
        """A call goes out."""
        self._last += 1
        call_id = CallId(self._last)
        self._purposes[call_id] = purpose
        return call_id

    def close(self, call_id: CallId) -> Purpose | None:
        """Its outcome has come; None for a call that is not open."""
        return self._purposes.pop(call_id, None)
