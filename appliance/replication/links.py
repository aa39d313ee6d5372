"""Who is connected to this host, and what goes out to them. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor
from appliance.replication.commands import Command, End, Link, Notice, Send
from appliance.replication.follower_link import FollowerLink
from appliance.replication.source_link import SourceLink
from appliance.wire.replication import AnyMessage, Closed

HANDSHAKE_S: Final = 5.0
ACK_S: Final = 30.0
"""A follower whose disk takes longer than this for a window is cut off, and begins again."""


@dataclass(slots=True)
class Source:
    """Somebody who connected to follow this log."""

    opened_at: float
    core: SourceLink | None = None


@dataclass(slots=True)
class Following:
    """A connection on which this host follows a peer."""

    peer: str
    nonce: bytes
    cursor: Cursor | None
    opened_at: float
    core: FollowerLink | None = None
    deferred: deque[AnyMessage] = field(default_factory=deque)


class Links:
    """The links of one host, in both directions, and the commands that wait to be taken."""

    def __init__(self, log_ids: Mapping[str, str]) -> None:
        self._log_ids = dict(log_ids)  # of the voters, this host among them, as far as they are known
        self._sources: dict[Link, Source] = {}
        self._followings: dict[Link, Following] = {}
        self._commands: list[Command] = []
        self.conflicts = 0
        """How often a voter said that another body than this host's is committed."""

    def take_commands(self) -> list[Command]:
        """What is to be done since this was called last, in order."""
        taken, self._commands = self._commands, []
        return taken

    def serving(self, link: Link) -> SourceLink | None:
        """A follower of this log, once it is welcome."""
        source = self._sources.get(link)
        return source.core if source else None

    def following(self, link: Link) -> FollowerLink | None:
        """This host's following of a peer, once it is welcomed."""
        following = self._followings.get(link)
        return following.core if following else None

    # --- for the layers above ---

    def _end(self, link: Link, reason: str, *, failed: bool = False) -> None:
        self._sources.pop(link, None)
        self._followings.pop(link, None)
        self._do(End(link, reason, failed))

    def _end_all(self, reason: str) -> None:
        for link in [*self._sources, *self._followings]:
            self._end(link, reason)

    def _connected_logs(self) -> set[tuple[str, str]]:
        """The other ends of all links that are welcome, in either direction: (host, log_id)."""
        links: list[Source | Following] = [*self._sources.values(), *self._followings.values()]
        return {(each.core.peer, each.core.log_id) for each in links if each.core is not None}

    def _links_of(self, host: str, *, like: Link) -> list[Link]:
        """Links with a host in the direction of another one, which is not among them."""
        same: Mapping[Link, Source | Following] = self._sources if like in self._sources else self._followings
        return [link for link, each in same.items() if link != like and each.core and each.core.peer == host]

    def _begin_again(self, payload_id: PayloadId, from_index: int) -> None:
        for link, following in list(self._followings.items()):
            if following.core is not None and following.core.has_unsettled(payload_id, from_index):
                self._end(link, "a branch is fetched again")

    def _tell_closed(self, payload_id: PayloadId, at: int) -> None:
        message = self._closed_message(payload_id, at)
        for link, source in self._sources.items():
            if source.core is not None:
                self._do(Send(link, message))

    def _closed_message(self, payload_id: PayloadId, at: int) -> Closed:
        return Closed(payload_id, at, dict(self._log_ids))

    def _end_overdue(self, now: float) -> None:
        opened: list[tuple[Link, Source | Following]] = [*self._sources.items(), *self._followings.items()]
        for link, each in opened:
            if each.core is None and now - each.opened_at > HANDSHAKE_S:
                self._end(link, f"no handshake within {HANDSHAKE_S:g} s", failed=True)
            elif isinstance(each.core, SourceLink) and each.core.in_flight and now - each.core.heard_at > ACK_S:
                self._end(link, f"no acknowledgement within {ACK_S:g} s", failed=True)

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    def _notice(self, name: str, **fields: object) -> None:
        self.conflicts += name == "conflict"
        self._do(Notice(name, fields))
