"""How long to wait before trying again."""


class Backoff:
    """Delays that double from ``initial_s`` up to ``maximum_s``, in seconds, without jitter.

    The defaults are rollup-boost's for its builder websocket: 10 ms doubling to 5 s. There is one
    client per builder, so there is no herd that jitter would have to spread.
    """

    __slots__ = ("_initial_s", "_maximum_s", "_next_s")

    def __init__(self, initial_s: float = 0.010, maximum_s: float = 5.0) -> None:
        if not 0 < initial_s <= maximum_s:
            raise ValueError(f"backoff needs 0 < initial <= maximum, got {initial_s} and {maximum_s}")
        self._initial_s = initial_s
        self._maximum_s = maximum_s
        self._next_s = initial_s

    def next(self) -> float:
        """The delay before the coming attempt; the one after it waits twice as long."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._maximum_s)
        return delay_s

    def reset(self) -> None:
        """An attempt succeeded: start again from ``initial_s``."""
        self._next_s = self._initial_s
