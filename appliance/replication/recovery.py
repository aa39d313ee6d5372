"""When a host with a log that has not voted yet may begin to. Pure.

A new log may be that of a new host, or that of a host that lost its disk: what it voted before is gone, so it could
vote for another body at the same place, and two bodies could each have a quorum. Nobody can tell the two apart for
sure, so both begin in the same way: without a vote, until the log has, of every other voter, all that this one had
when it said welcome, and nothing of that is refused here and undecided.

Why that is enough: whatever its lost vote helped to commit is, or was, in the log of another voter, and is in this log
now. And each voter has forgotten what the lost log voted before it said welcome, so no old vote is ever counted again.
"""

from collections.abc import Iterable


class Recovery:
    """``others`` are the other voters; ``recovering`` is False for a log that has its vote, or host without one."""

    def __init__(self, others: Iterable[str], *, recovering: bool) -> None:
        self._missing: dict[str, int | None] = dict.fromkeys(sorted(others))
        self.recovering = recovering

    @property
    def missing(self) -> tuple[str, ...]:
        """The voters whose logs are not here yet."""
        return tuple(self._missing)

    def welcomed(self, peer: str, appended: int) -> None:
        """A voter said welcome; its log ends at ``appended``."""
        if peer in self._missing:
            self._missing[peer] = appended

    def reached(self, peer: str, settled: int) -> None:
        """This log has ``peer``'s up to a position, and nothing of that is in doubt but what it holds itself."""
        target = self._missing.get(peer)
        if target is not None and settled >= target:
            del self._missing[peer]

    @property
    def is_done(self) -> bool:
        """Whether the vote can be taken up now."""
        return self.recovering and not self._missing
