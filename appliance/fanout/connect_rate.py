"""How often one address may connect: what a flood costs is the accepting of it, not its handshakes. Pure."""

from collections import OrderedDict
from typing import Final

MAX_ADDRESSES: Final = 16_384
"""Addresses that are remembered. When there are more, the one that connected longest ago starts anew."""

BURST_OF_PLACES: Final = 2
"""An address may connect at once twice as often as it has places: all behind one NAT come back together."""

LEAST_PLACES: Final = 50
"""An address with fewer places may connect as if it had these: a page that reconnects, health checks, refusals."""

REFILL_S: Final = 10.0
"""In so many seconds it may connect as often again as it has places."""


class ConnectRate:
    """A leaking bucket for each address: one number, when it will be empty (GCRA)."""

    def __init__(self, max_per_address: int) -> None:
        """``max_per_address``: the places that an address has."""
        self._each_s = REFILL_S / max(max_per_address, LEAST_PLACES)
        self._burst_s = BURST_OF_PLACES * REFILL_S
        self._empty_at: OrderedDict[str, float] = OrderedDict()  # in the order of their last connection

    def __len__(self) -> int:
        return len(self._empty_at)

    def admit(self, address: str, now: float) -> bool:
        """Count a connection; False when there were too many, which is not counted."""
        empty_at = max(self._empty_at.get(address, now), now) + self._each_s
        if empty_at - now > self._burst_s + self._each_s / 2:  # half of one against rounding
            return False
        self._empty_at[address] = empty_at
        self._empty_at.move_to_end(address)
        while len(self._empty_at) > MAX_ADDRESSES:
            self._empty_at.popitem(last=False)
        return True
