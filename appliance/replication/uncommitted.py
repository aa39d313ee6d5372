"""Flashblocks that are shown though no majority has them (`on_timeout = "publish"`): when that begins, and ends. Pure.

It may be ten a second for hours, so what is said is the beginning and the end, with how many there were. It has ended
when all of them are committed, or lost their places, and no other one has been shown so for `QUIET_S`: with a majority
that takes a little longer than the timeout, each flashblock would be a beginning and an end.
"""

from typing import Final

QUIET_S: Final = 5.0


class Uncommitted:
    """Told what is shown; asked now and then. ``now`` in seconds, monotonic; positions are of this host's log."""

    def __init__(self) -> None:
        self.count = 0
        """Of the time that goes on, or of the last one."""
        self.goes_on = False
        self._through = 0
        self._shown_at = 0.0

    def shown(self, through: int, entries: int, now: float) -> bool:
        """So many more are shown, up to a position; whether it begins with that."""
        begins = not self.goes_on
        self.count = entries if begins else self.count + entries
        self.goes_on, self._through, self._shown_at = True, through, now
        return begins

    def ends(self, committed: int, now: float) -> bool:
        """Whether it ends now that all up to ``committed`` is."""
        if not self.goes_on or committed < self._through or now - self._shown_at < QUIET_S:
            return False
        self.goes_on = False
        return True
