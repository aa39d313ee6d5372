"""How many bytes of request bodies one server holds at a time. Pure."""

from typing import Final

UNCOUNTED_BYTES: Final = 64 * 1024
"""Of every body this much is not counted, so that small calls pass while large ones fill the budget."""


class BodyBudget:
    """Bytes that have come, not bytes that were promised: a client that only announces a body takes no room.

    Nobody waits for room, since those who wait with half a body could wait for one another: what does not
    fit is refused.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.taken = 0

    def has_room(self, body_bytes: int) -> bool:
        """Whether a body of that size would fit now."""
        return body_bytes <= UNCOUNTED_BYTES or self.taken + _counted(body_bytes) <= self._limit_bytes

    def grow(self, before: int, after: int) -> bool:
        """A body grew from ``before`` to ``after`` bytes; false when that does not fit, and nothing is taken."""
        if after <= UNCOUNTED_BYTES:
            return True
        more = _counted(after) - _counted(before)
        if self.taken + more > self._limit_bytes:
            return False
        self.taken += more
        return True

    def give_back(self, body_bytes: int) -> None:
        """A body of that size is gone."""
        if body_bytes > UNCOUNTED_BYTES:
            self.taken -= _counted(body_bytes)


def _counted(body_bytes: int) -> int:
    return max(0, body_bytes - UNCOUNTED_BYTES)
