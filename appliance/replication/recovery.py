"""When a host that lost its log may vote again. Pure.

What it voted for before is gone with its log, so it could vote for another body at the same place, and two bodies could
each have a quorum. Its peers remember the log that it had (`Welcome.another_log`). It then follows without a vote until
it has caught up with so many voters that every quorum which it was part of has one of them: voters - quorum + 1.
"""


class Recovery:
    """Counts whom this host has caught up with; ``targets`` are the sources' last positions when they said welcome."""

    def __init__(self, *, voters: int, quorum: int, recovering: bool) -> None:
        self._needed = voters - quorum + 1
        self._targets: dict[str, int] = {}
        self._caught_up: set[str] = set()
        self.recovering = recovering

    def begin(self) -> bool:
        """A voter knew this host with another log; true when that is news."""
        news, self.recovering = not self.recovering, True
        return news

    def welcomed(self, peer: str, appended: int) -> None:
        """A voter accepted this host's following; its log ends at ``appended``."""
        self._targets[peer] = appended
        self._caught_up.discard(peer)

    def reached(self, peer: str, position: int) -> bool:
        """This host has ``peer``'s log up to ``position``; true when that ends the recovery."""
        if not self.recovering or position < self._targets.get(peer, position + 1):
            return False
        self._caught_up.add(peer)
        self.recovering = len(self._caught_up) < self._needed
        return not self.recovering
