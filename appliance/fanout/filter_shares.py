"""How much of what all filters may hold one address may take: nobody is to keep others from filtering. Pure."""

from collections import Counter

from appliance.fanout import filters
from appliance.fanout.filters import Filter


class FilterShares:
    """The filters of each address. Bounded by the places of subscribers: each one has one filter at most.

    Equal filters of one address count once, as they do in the index. One that others have too counts here all the same:
    it is this address's when they leave.
    """

    def __init__(self) -> None:
        self._uses: dict[str, Counter[Filter]] = {}
        self._items: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._uses)

    def items_of(self, address: str) -> int:
        """Addresses and topics in the filters that differ."""
        return self._items.get(address, 0)

    def has_room_for(self, address: str, wanted: Filter) -> bool:
        """Whether one more subscriber from here may have this filter."""
        if wanted in self._uses.get(address, ()):
            return True
        return self.items_of(address) + wanted.items <= filters.MAX_ITEMS_PER_ADDRESS

    def take(self, address: str, wanted: Filter) -> None:
        """Count one more subscriber."""
        uses = self._uses.setdefault(address, Counter())
        uses[wanted] += 1
        if uses[wanted] == 1:
            self._items[address] += wanted.items

    def give_back(self, address: str, wanted: Filter) -> None:
        """Count one less; an address without any is forgotten."""
        uses = self._uses[address]
        uses[wanted] -= 1
        if not uses[wanted]:
            del uses[wanted]
            self._items[address] -= wanted.items
        if not uses:
            del self._uses[address], self._items[address]
