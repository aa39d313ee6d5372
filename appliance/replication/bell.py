"""Waking tasks that look for themselves what there is to do."""

import trio


class Bell:
    """Take `next_ring`, look at everything, then wait for what was taken: no ring is missed."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def __repr__(self) -> str:
        return "<Bell>"

    def next_ring(self) -> trio.Event:
        """Set when the bell rings next."""
        return self._event

    def ring(self) -> None:
        """Wake all who wait."""
        event, self._event = self._event, trio.Event()
        event.set()
