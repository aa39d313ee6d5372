"""Who a host is to its peers, and how it counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.domain.payloads import PayloadId


@dataclass(frozen=True, slots=True)
class Membership:
    """``voters`` has this host's own name where it votes; ``quorum`` of them commit an entry (min_acks + 1).

    ``log_id`` names the log file. ``publish_after_s`` is set where entries may be shown uncommitted after that time.
    A flashblock that is not committed and ``late_after_s`` older than one of another payload that is, ends its payload:
    subscribers have gone on. An entry that waits for ``move_after_s`` gives way to those behind it.
    """

    host_id: str
    log_id: str
    secret: bytes = field(repr=False)
    voters: frozenset[str]
    quorum: int
    follow_only: bool = False
    publish_after_s: float | None = None
    late_after_s: float = 0.5
    move_after_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What the log knows at a start. ``known_logs`` are the log_ids of the peers' cursors; the rest are positions.

    ``appended`` is the last position that was ever given. ``recovering``: this log has not voted yet (`recovery`).
    """

    appended: int = 0
    committed: int = 0
    pruned: int = 0
    ends: tuple[tuple[PayloadId, int], ...] = ()
    known_logs: Mapping[str, str] = field(default_factory=dict)
    recovering: bool = True
