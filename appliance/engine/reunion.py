"""When a builder may have forgotten what it was told: a pure machine.

    event                                      becomes        answer
    -----------------------------------------  -------------  ----------------------------------------------
    a call without an answer                   away           no
    an answer, while away                      here           yes: it may have been restarted meanwhile
    an answer, while here                      here           no
    a head lower than the one before           here           yes: it was restarted from an older state (or the
                                                              chain was: telling it once more does no harm)

Miner settings live in a builder's memory only. op-node and op-batcher set them when they change, not when a
builder was away, so whoever remembers them must say them again.
"""


class Reunion:
    """One builder's comings and goings."""

    def __init__(self) -> None:
        self._away = False
        self._head: int | None = None

    def missed(self) -> None:
        """A call had no answer."""
        self._away = True

    def answered(self) -> bool:
        """It answered; True when it is to be told everything again."""
        back, self._away = self._away, False
        return back

    def head_seen(self, number: int) -> bool:
        """It answered with its head; True when it is to be told everything again."""
        fell_back = self._head is not None and number < self._head
        self._head = number
        return self.answered() or fell_back
