"""Which chain a group is on, and who of its endpoints is on another one. Pure.

One URL in the wrong place (a testnet's, an L2's) would answer reads with another chain's state, and its higher head
would make all others look stale. So each endpoint has to say its chain (eth_chainId) before its heads count, and again
after each time that it was away.

The configuration's `chain_id` decides. Without it the first endpoint in the configured order that says its chain
does, until the process starts again; those behind it wait for its word, or for its silence.
"""

from collections.abc import Sequence


class ChainGuard:
    """``names`` in the configured order."""

    def __init__(self, names: Sequence[str], configured: int | None) -> None:
        self.expected = configured
        self._decided_by: str | None = None
        self._names = tuple(names)
        self._said: dict[str, int] = {}
        self._silent: set[str] = set()

    def __repr__(self) -> str:
        return f"<ChainGuard {self.expected} by {self._decided_by or 'chain_id'}>"

    def knows(self, name: str) -> bool:
        """Whether it said its chain since it was last away, and need not be asked."""
        return name in self._said and self.wrong(name) == ""

    def confirmed(self, name: str) -> bool:
        """Whether it is on the group's chain: only then its heads mean anything."""
        return self.expected is not None and self._said.get(name) == self.expected

    def said(self, name: str, chain_id: int) -> None:
        """It said that."""
        self._said[name] = chain_id
        self._silent.discard(name)
        self._decide()

    def away(self, name: str) -> None:
        """It did not answer, or its connection ended: who answers there next may be somebody else."""
        self._said.pop(name, None)
        self._silent.add(name)
        self._decide()

    def verdicts(self) -> dict[str, str]:
        """Of those who said something: what is wrong with it, "" for nothing. Empty until it is decided."""
        return {name: self.wrong(name) for name in self._said} if self.expected is not None else {}

    def wrong(self, name: str) -> str:
        """What is wrong with what it said last; "" for nothing, or nothing said."""
        said = self._said.get(name)
        if said is None or self.expected is None or said == self.expected:
            return ""
        return f"on chain {said}, and this group is on chain {self.expected} ({self._why})"

    def chain_of(self, name: str) -> int | None:
        """What it said, None where it is not known."""
        return self._said.get(name)

    @property
    def _why(self) -> str:
        return "chain_id" if self._decided_by is None else f"as {self._decided_by} says; chain_id would decide"

    def _decide(self) -> None:
        if self.expected is not None:
            return
        for name in self._names:
            if name in self._said:
                self.expected, self._decided_by = self._said[name], name
                return
            if name not in self._silent:
                return
