"""What the core asks of the shell. Links are named by what the shell gave them as names."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Cursor, Replica
from appliance.wire.replication import AnyMessage

Link = Hashable


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a link, after those before it."""

    link: Link
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class End:
    """Close a link, once what was sent on it has gone. ``failed``: wait before the next one to this peer."""

    link: Link
    reason: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Read:
    """Read this log after a position, committed or not, up to ``through``; answer with `Core.read`.

    At most ``limit`` records and ``max_bytes`` of bodies, but at least one if there is one.
    """

    link: Link
    after: int
    through: int
    limit: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """Put a peer's entries and the cursor, if any, into the log in one transaction; answer with `Core.stored`.

    Entries at the positions in ``late`` are not taken, if they are not held: their payloads end there (tombstone, in
    the same transaction) and the verdict is CLOSED.
    """

    link: Link
    peer: str
    entries: tuple[Replica, ...]
    cursor: Cursor | None
    late: frozenset[int]
    committed: frozenset[int]


@dataclass(frozen=True, slots=True)
class Replace:
    """Remove this log's branch of a payload from an index on, as evidence, and a tombstone that is not before it.

    Answer with `Core.removed`.
    """

    payload_id: PayloadId
    from_index: int


@dataclass(frozen=True, slots=True)
class Close:
    """The same, and leave a tombstone there. Answer with `Core.closed`."""

    payload_id: PayloadId
    at: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """Give a payload's entries from an index on new positions at the end of the log. Answer with `Core.requeued`."""

    payload_id: PayloadId
    from_index: int


@dataclass(frozen=True, slots=True)
class SaveCursor:
    """Write a cursor, with the commit point, whenever it suits. No answer."""

    peer: str
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class SetRecovered:
    """Write that this log may vote. Answer with `Core.recovered`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """A peer has seen more of this log than it has: a disk was set back. It is a new log now, without a vote."""


@dataclass(frozen=True, slots=True)
class CommitThrough:
    """Everything up to ``position`` is committed. ``waited_s`` has one number for each entry that is newly so."""

    position: int
    waited_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ShowThrough:
    """Everything up to ``position`` may be shown though it is not committed (`on_timeout = "publish"`)."""

    position: int


@dataclass(frozen=True, slots=True)
class FollowState:
    """A peer knows what became of a payload."""

    payload_id: PayloadId
    state: PayloadState
    block_hash: str | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that operators may want to know: an event's name for log and metrics, and its facts.

    `refused` (another body), `late`, `replaced`, `closed`, `moved`, `pruned`, `gap`, `conflict` (two committed bodies),
    `lost_log` (a peer's log, or this one, is not the one it was), `recovering`, `recovered`, `other_voters`.
    """

    name: str
    fields: dict[str, object] = field(default_factory=dict)


Command = (
    Send
    | End
    | Read
    | Store
    | Replace
    | Close
    | Requeue
    | SaveCursor
    | SetRecovered
    | Renew
    | CommitThrough
    | ShowThrough
    | FollowState
    | Notice
)
