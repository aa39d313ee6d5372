"""The sessions that are ahead of this host's log, grouped by what they wait for. Pure.

After a failover to a host that is behind, thousands wait while it catches up; they come from a few places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.fanout.framesets import FrameSet
from appliance.fanout.marks import Mark
from appliance.fanout.session import Session

Awaited = tuple[int, tuple[int, int] | None]
"""The position that is passed over beyond the hub's, 0 for none, and the key through which all is."""


@dataclass(slots=True)
class Group:
    """Those who stand at ``mark`` and pass over what is up to ``skip``; see `Session`."""

    mark: Mark
    skip: tuple[int, int] | None
    members: dict[Session, None] = field(default_factory=dict)  # in the order of arrival

    def pass_over(self, batch: Sequence[FrameSet], before: Mark) -> bool:
        """Go on to the first entry of a batch that is new to these; False when there is none."""
        if self.mark.position <= before.position:
            self.mark = before
        for item in batch:
            if item.mark.position <= self.mark.position:
                continue
            if self.skip is None or item.entry.key > self.skip:
                return True
            self.mark = item.mark
        return False


class Waiting:
    """Whoever waits has passed over all that was broadcast; its own mark shows that once it leaves, or `note_mark`."""

    def __init__(self) -> None:
        self._groups: dict[Awaited, Group] = {}
        self._keys: dict[Session, Awaited] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._keys)

    def __contains__(self, session: object) -> bool:
        return session in self._keys

    def add(self, session: Session, mark: Mark) -> None:
        """Take a session in that is as far as ``mark``, where the hub is, or further."""
        # How it came to where the hub is does not matter: all there pass over the same from now on.
        ahead = session.mark.position if session.mark.position > mark.position else 0
        key = ahead, session.skip
        group = self._groups.setdefault(key, Group(session.mark, session.skip))
        group.members[session] = None
        self._keys[session] = key

    def discard(self, session: Session) -> None:
        """Let a session go, if it is here, with the mark that it has come to."""
        self.note_mark(session)
        key = self._keys.pop(session, None)
        if key is None:
            return
        members = self._groups[key].members
        del members[session]
        if not members:
            del self._groups[key]

    def note_mark(self, session: Session) -> None:
        """Move the session's own mark to where it has come, if it is here."""
        key = self._keys.get(session)
        if key is not None and self._groups[key].mark.position > session.mark.position:
            session.mark = self._groups[key].mark  # at the same place its own says more of how it came there

    def begin(self, batch: Sequence[FrameSet], before: Mark) -> list[Session]:
        """The broadcast of a batch begins: those for whom there is something new in it, at their marks; they leave."""
        ready = [key for key, group in self._groups.items() if group.pass_over(batch, before)]
        return [session for key in ready for session in self._take(key, before)]

    def _take(self, key: Awaited, before: Mark) -> Iterator[Session]:
        group = self._groups.pop(key)
        for session in group.members:
            del self._keys[session]
            session.skip = None
            if group.mark is before or group.mark.position > session.mark.position:
                session.mark = group.mark
            yield session
