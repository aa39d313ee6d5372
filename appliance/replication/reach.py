"""Whether this host is connected with so many voters that it sees what is committed. Pure.

    this host   sees commits when it follows
    ----------  ------------------------------------------------------------------------------------------
    a voter     so many voters with a vote that they are a quorum, this host counted while it has its own;
                one at least, also where `min_acks` is 0, for what others originate
    a learner   one voter, whose word it takes

A voter that follows too few may hear of commits all the same, by the word of one that follows more: that is said with
"may". Links end and begin again in ordinary life (a peer is restarted, a host gets its vote), so nothing is said before
a grace is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.replication.settings import ReplicationSettings


@dataclass(frozen=True, slots=True)
class PeerLink:
    """One configured peer: whether it is followed, and has a vote; why it is not followed, where that is known."""

    peer: str
    followed: bool
    votes: bool = False
    last_error: str | None = None


class Reach:
    """Told now and then how the links are; ``now`` in seconds, monotonic.

    ``short_s`` is how long too few have been followed, as of the last look; 0 while they are enough.
    """

    def __init__(self, settings: ReplicationSettings) -> None:
        self._settings = settings
        self._needed = 1 if settings.follow_only else max(settings.quorum, 2)
        self.short_s = 0.0
        self._short_since: float | None = None
        self._reason = ""

    def look(self, links: Sequence[PeerLink], now: float, *, votes: bool) -> None:
        """Judge the links. ``votes``: this host does."""
        missing = [link for link in links if not self._counts(link)]
        reached = len(links) - len(missing) + votes
        if reached >= self._needed:
            self._short_since, self.short_s = None, 0.0
            return
        self._short_since = now if self._short_since is None else self._short_since
        self.short_s = now - self._short_since
        troubles = [_trouble(link) for link in missing]
        if not votes and not self._settings.follow_only:
            troubles.append(f"{self._settings.host_id}: no vote yet")
        counted = "with this host" if votes else "reached"
        voters = f"{reached} of {len(self._settings.voters)} voters {counted}, {self._needed} needed"
        self._reason = f"{voters} ({'; '.join(troubles)}): {self._consequence(links)}"

    @property
    def trouble(self) -> str | None:
        """Who is missing and why, once it has been so for the grace; None while all is well."""
        return self._reason if self.short_s > self._settings.reach_grace_s else None

    def _counts(self, link: PeerLink) -> bool:
        return link.followed and (link.votes or self._settings.follow_only)

    def _consequence(self, links: Sequence[PeerLink]) -> str:
        settings = self._settings
        shows_alone = settings.publish_on_timeout or settings.quorum == 1
        if any(link.followed for link in links):
            return "what subscribers see has no majority" if shows_alone else "subscribers may see nothing new"
        if shows_alone and not settings.follow_only:
            return "subscribers see nothing of what other hosts have"
        return "subscribers see nothing new"


def _trouble(link: PeerLink) -> str:
    return f"{link.peer}: {'no vote yet' if link.followed else link.last_error or 'no answer yet'}"
