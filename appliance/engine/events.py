"""What the multiplexer is told (events) and what it orders (commands): plain values, in its own terms.

Tickets name requests of op-node, call ids name calls to upstreams; both are the shell's and the core's own
numbers and never travel. The EL goes by the name `EL`, builders by their configured names.
"""

from dataclasses import dataclass
from typing import Final, NewType

from appliance.domain.assembled import AssembledPayload
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId, PayloadSource
from appliance.engine.decisions import BlockFacts, Decision
from appliance.engine.ports import Build
from appliance.wire.engine import Call
from appliance.wire.engine_answers import BuiltPayload

Ticket = NewType("Ticket", int)
"""One request of op-node that waits for its reply; the shell numbers them."""

CallId = NewType("CallId", int)
"""One call to an upstream whose outcome the multiplexer wants to know; the multiplexer numbers them."""

EL: Final = "l2"
"""The local execution client's name among the upstreams (rollup-boost's word in logs and metrics)."""

JSON: Final = "application/json"

ASSEMBLED: Final = "assembled"
"""The source name of the block that the published flashblocks add up to."""


# --- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """op-node asks. ``identifier`` is the JSON-RPC id as it came; ``body`` the whole request."""

    ticket: Ticket
    call: Call
    identifier: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """An upstream answered, with any HTTP status; ``origin`` is its name and URL, for messages."""

    call_id: CallId
    origin: str
    status: int
    body: bytes
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class Failed:
    """An upstream did not answer; ``reason`` names it and says why."""

    call_id: CallId
    reason: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the stream answered to `Seal`, directly after it."""

    build_id: BuildId
    assembled: AssembledPayload | None


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The time of a `WakeAt` has come."""

    build_id: BuildId


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """Somebody threw the switch."""

    mode: ExecutionMode


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Builders that are ``unhealthy`` are not waited for; those to be ``ignored`` get no part in the chain either."""

    unhealthy: frozenset[str]
    ignored: frozenset[str] = frozenset()


Event = Requested | Answered | Failed | Sealed | DeadlinePassed | ModeChanged | HealthChanged


# --- commands: calls and replies ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Call an upstream now, side by side with all other calls, and tell the outcome.

    ``pass_through`` marks calls that no block depends on: they may wait for each other, but no call for them.
    ``relay`` says that an answer with HTTP status 200 will be the reply to the request that led to this call, byte for
    byte and whatever it says: so it may be passed on as it comes.
    """

    call_id: CallId
    upstream: str
    body: bytes
    pass_through: bool = False
    relay: bool = False


@dataclass(frozen=True, slots=True)
class Validate:
    """Call newPayload on the EL for a candidate, and tell the outcome.

    The shell makes the body outside of the machine: for 3 MB that is a millisecond.
    """

    call_id: CallId
    block: BuiltPayload | AssembledPayload
    parent_beacon_block_root: str | None


@dataclass(frozen=True, slots=True)
class SendInOrder:
    """Call a builder behind everything ordered of it before: it must know the parent when it is to build.

    ``builds`` is False for the builder listener's newPayload and forkchoiceUpdated without attributes, which
    give way when a builder is far behind; ``latest_only`` as in `Copy`.
    """

    call_id: CallId
    builder: str
    body: bytes
    builds: bool = True
    latest_only: str | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """Let all builders have a request in the background; nobody waits for the outcome.

    ``latest_only`` names a kind of which only the newest counts; ``lasting`` says that it must reach the
    builder even when it is away now. ``in_order`` says that its place among the chain's calls matters.
    Builders in ``skip`` get none.
    """

    body: bytes
    latest_only: str | None = None
    lasting: bool = False
    in_order: bool = True
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Announce:
    """Let all builders but those in ``skip`` have newPayload of the block that was chosen; nobody waits for it."""

    block: BuiltPayload | AssembledPayload
    parent_beacon_block_root: str | None
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to op-node; ``failure`` says in words that it is only an error of ours."""

    ticket: Ticket
    body: bytes
    status: int = 200
    content_type: str = JSON
    failure: str = ""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Tell `DeadlinePassed` at this time (seconds, monotonic); once per build."""

    build_id: BuildId
    at: float


# --- commands: to the flashblock stream (see ports.FlashblockStream) ----------------------------------


@dataclass(frozen=True, slots=True)
class BuildStarted:
    build: Build


@dataclass(frozen=True, slots=True)
class BuildConfirmed:
    build_id: BuildId


@dataclass(frozen=True, slots=True)
class BuildAbandoned:
    build_id: BuildId


@dataclass(frozen=True, slots=True)
class BuilderJoined:
    build_id: BuildId
    builder: str
    payload_id: PayloadId


@dataclass(frozen=True, slots=True)
class Seal:
    """Fence the stream; the shell tells `Sealed` before any other event."""

    build_id: BuildId


@dataclass(frozen=True, slots=True)
class PayloadReturned:
    build_id: BuildId
    block_hash: str
    holds_all: bool = False


@dataclass(frozen=True, slots=True)
class HeadChanged:
    block_hash: str
    block_number: int | None


StreamCommand = BuildStarted | BuildConfirmed | BuildAbandoned | BuilderJoined | Seal | PayloadReturned | HeadChanged


# --- commands: what people and metrics are told -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockReturned:
    """The log line "returning block". ``builder`` is None for the EL's own.

    ``candidates`` says what became of each source that was asked; ``seconds`` is what op-node waited.
    """

    block_hash: str
    block_number: int
    payload_id: PayloadId
    context: PayloadSource
    builder: str | None
    source: str
    candidates: dict[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class CandidateLost:
    """A source's block will not be returned: no answer, not the block that was asked for, or not VALID."""

    source: str
    kind: str  # "failed" | "refused" | "invalid" | "unjudged" | "late"; a metric's label
    reason: str


@dataclass(frozen=True, slots=True)
class BuilderAbsent:
    """A builder did not take part in a build."""

    builder: str
    reason: str


@dataclass(frozen=True, slots=True)
class Produced:
    """An upstream answered getPayload with a block, or failed a call that every block needs.

    What health goes by between its own probes. A builder's block counts when the choice is made, so that one
    that comes in time and turns out INVALID is not a good word and a bad one.
    """

    upstream: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """Everything about one choice, once it is made; in a dry run that is after the reply."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class BlockCameLate:
    """A source's block that came when the choice was made already, ``seconds`` after getPayload."""

    build_id: BuildId
    source: str
    facts: BlockFacts
    seconds: float


@dataclass(frozen=True, slots=True)
class OrderTurnedAway:
    """The builder listener sent an order to build to nobody: another one on the same parent is being built."""

    parent_hash: str
    reason: str


@dataclass(frozen=True, slots=True)
class HeadTurnedAway:
    """The builder listener told nobody of a head: builders build on a higher block."""

    head: str
    reason: str


Observation = (
    BlockReturned
    | CandidateLost
    | BuilderAbsent
    | Produced
    | Decided
    | BlockCameLate
    | OrderTurnedAway
    | HeadTurnedAway
)

Command = Send | Validate | SendInOrder | Copy | Announce | Reply | WakeAt | StreamCommand | Observation
