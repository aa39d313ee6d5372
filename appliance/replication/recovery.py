"""When a host with a log that has not voted yet may begin to. Pure.

A new log may be that of a new host, or that of a host that lost its disk: what it voted before is gone, so it could
vote for another body at the same place, and two bodies could each have a quorum. Its peers tell the two apart: who
followed another log of this host before says so (`Welcome.another_log`), until this host has its vote.

    nobody knows another log      the vote begins when so many voters have said so that they are a quorum with this one
    somebody does: it was lost    the vote begins when this log has the logs of all other voters

It has a log when it has all that the voter had when it said welcome, with nothing of that refused and undecided. Why
that is enough: whatever the lost vote helped to commit is, or was, in the log of another voter, so it is here now. And
each voter has forgotten what the lost log voted before it said welcome, so no old vote is counted again.
"""

from collections.abc import Iterable


class Recovery:
    """``others`` are the other voters; ``recovering`` is False for a log that has its vote, and where there is none."""

    def __init__(self, others: Iterable[str], quorum: int, *, recovering: bool) -> None:
        self._targets: dict[str, int | None] = dict.fromkeys(sorted(others))
        self._quorum = quorum
        self._here: set[str] = set()
        self._welcome: set[str] = set()
        self.recovering = recovering
        self.is_lost = False

    def __repr__(self) -> str:
        return f"<Recovery {'from loss' if self.is_lost else 'of a new log'}: {sorted(self._here)} are here>"

    def welcomed(self, peer: str, appended: int, *, another_log: bool) -> bool:
        """A voter said welcome; its log ends at ``appended``. Whether it is news that this host's log was lost."""
        if peer not in self._targets:
            return False
        self._targets[peer] = appended
        self._welcome.add(peer)
        self._here.discard(peer)
        is_news = another_log and not self.is_lost
        self.is_lost |= another_log
        return is_news

    def reached(self, peer: str, undoubted: int) -> None:
        """This log has ``peer``'s up to a position, with nothing refused and undecided."""
        target = self._targets.get(peer)
        if target is not None and undoubted >= target:
            self._here.add(peer)

    @property
    def missing(self) -> tuple[str, ...]:
        """The voters whose logs are not here yet, though not all of them may be needed."""
        return tuple(peer for peer in self._targets if peer not in self._here)

    @property
    def is_done(self) -> bool:
        """Whether the vote can be taken up now."""
        if self.is_lost:
            return self.recovering and len(self._here) == len(self._targets)
        return self.recovering and len(self._welcome) >= self._quorum - 1
