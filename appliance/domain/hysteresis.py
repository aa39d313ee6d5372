"""Well or ill, from observations of which no single one decides: a pure machine.

    state      observation                            becomes
    ---------  -------------------------------------  ------------------------------------------------------
    unknown    good                                   well
    any        bad                                    one strike more; ill when they are enough
    well       good                                   one strike less
    ill        good, enough of them in a row over     well
               the time that a return takes
    ill        bad                                    ill, and the return begins anew

A return takes twice as long after each relapse, up to a bound, and as at first again after ten times as long well.
"""

from dataclasses import dataclass
from typing import Final

_STEADY: Final = 10  # so many return times without a relapse, and the next one is short again


@dataclass(frozen=True, slots=True)
class Patience:
    """How many bad observations make ill, and what a return takes. Times in seconds."""

    strikes: int
    goods: int
    return_s: float
    max_return_s: float


class Track:
    """One way of looking at one upstream; ``now`` in seconds, monotonic."""

    def __init__(self, patience: Patience) -> None:
        self.known = False
        self.ill = False
        self.reason = "not checked yet"
        self._patience = patience
        self._strikes = 0
        self._goods = 0
        self._since = 0.0  # of the first good one in a row, while ill
        self._return_s = patience.return_s
        self._well_since: float | None = None  # after a return

    @property
    def is_calm(self) -> bool:
        """Whether nothing counts against it."""
        return not self.ill and self._strikes == 0

    def good(self, reason: str, now: float) -> None:
        """A good observation."""
        if self.ill:
            self._return(reason, now)
            return
        self.known, self.reason = True, reason
        self._strikes = max(0, self._strikes - 1)

    def bad(self, reason: str, now: float) -> None:
        """A bad observation."""
        self._goods = 0
        self._strikes = min(self._strikes + 1, self._patience.strikes)
        if self.ill:
            self.reason = reason
        elif self._strikes >= self._patience.strikes:
            self._fall_ill(reason, now)

    def _fall_ill(self, reason: str, now: float) -> None:
        self.known, self.ill, self.reason = True, True, reason
        if self._well_since is None:
            return
        steady = now - self._well_since >= _STEADY * self._return_s
        longer = min(2 * self._return_s, self._patience.max_return_s)
        self._return_s = self._patience.return_s if steady else longer

    def _return(self, reason: str, now: float) -> None:
        if self._goods == 0:
            self._since = now
        self._goods += 1
        if self._goods >= self._patience.goods and now - self._since >= self._return_s:
            self.ill, self.reason, self._strikes, self._goods, self._well_since = False, reason, 0, 0, now
