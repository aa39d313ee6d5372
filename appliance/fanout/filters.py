"""Who wants which flashblocks: a filter of one subscriber, and an index over those of all. Pure."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping
from typing import Final

from appliance.fanout.contents import ADDRESS_BYTES, TOPIC_BYTES, Contents, hex_bytes

MAX_ITEMS: Final = 256
"""Addresses and topics of one filter. A request line of 16 KB would hold some 370 addresses."""

MAX_ITEMS_IN_ALL: Final = 200_000
"""Of all filters that differ: some 60 MB. When they are there, a subscriber with another one is refused."""

MAX_ITEMS_PER_ADDRESS: Final = MAX_ITEMS_IN_ALL // 8
"""Of one client address: some hundred of the largest filters. It takes eight addresses to leave others no room."""

_SHOWN_CHARACTERS: Final = 70


class InvalidFilterError(Exception):
    """The query's filter is none; the text is one line that names what is wrong."""


class Filter:
    """A flashblock passes if it touches one of the addresses or has one of the topics; with ``match_all`` both."""

    __slots__ = ("__weakref__", "_hash", "addresses", "match_all", "topics")

    def __init__(
        self, addresses: Iterable[bytes] = (), topics: Iterable[bytes] = (), *, match_all: bool = False
    ) -> None:
        self.addresses = frozenset(addresses)
        self.topics = frozenset(topics)
        self.match_all = match_all and bool(self.addresses and self.topics)  # with one of the two it means the same
        self._hash = hash((self.addresses, self.topics, self.match_all))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Filter):
            return NotImplemented
        mine = (self.addresses, self.topics, self.match_all)
        return self is other or mine == (other.addresses, other.topics, other.match_all)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        how = "all" if self.match_all else "any"
        return f"<Filter {len(self.addresses)} addresses, {len(self.topics)} topics, {how}>"

    @property
    def items(self) -> int:
        """Addresses and topics."""
        return len(self.addresses) + len(self.topics)

    def without_scan(self, contents: Contents) -> bool | None:
        """Whether a flashblock passes, where that does not hang on its transactions' bytes; else None."""
        topic = not self.topics.isdisjoint(contents.topics)
        if topic and not self.match_all:
            return True
        if not topic and self.match_all:
            return False
        if not self.addresses.isdisjoint(contents.addresses):
            return True
        return None if self.addresses and contents.transactions else False

    def after_scan(self, contents: Contents, called: Collection[bytes]) -> bool:
        """The same when it is known which of its addresses stand in the transactions: ``called`` has them."""
        decided = self.without_scan(contents)
        return not self.addresses.isdisjoint(called) if decided is None else decided


class FilterIndex:
    """All filters in use, by what they look for: the cost of matching depends on the flashblock, not on them."""

    def __init__(self) -> None:
        self._uses: Counter[Filter] = Counter()
        self._by_address: dict[bytes, set[Filter]] = {}
        self._by_topic: dict[bytes, set[Filter]] = {}
        self._match_all: set[Filter] = set()
        self.items = 0

    def __len__(self) -> int:
        return len(self._uses)

    def __contains__(self, wanted: Filter) -> bool:
        return wanted in self._uses

    @property
    def addresses(self) -> KeysView[bytes]:
        """Every address that is looked for."""
        return self._by_address.keys()

    def has_room_for(self, wanted: Filter) -> bool:
        """Whether one more subscriber with this filter may come."""
        return wanted in self._uses or self.items + wanted.items <= MAX_ITEMS_IN_ALL

    def add(self, wanted: Filter) -> None:
        """Count one more subscriber with this filter."""
        self._uses[wanted] += 1
        if self._uses[wanted] == 1:
            self.items += wanted.items
            if wanted.match_all:
                self._match_all.add(wanted)
            for address in wanted.addresses:
                self._by_address.setdefault(address, set()).add(wanted)
            for topic in wanted.topics:
                self._by_topic.setdefault(topic, set()).add(wanted)

    def remove(self, wanted: Filter) -> None:
        """Count one less; with the last one it is forgotten."""
        self._uses[wanted] -= 1
        if not self._uses[wanted]:
            del self._uses[wanted]
            self.items -= wanted.items
            self._match_all.discard(wanted)
            _forget(self._by_address, wanted.addresses, wanted)
            _forget(self._by_topic, wanted.topics, wanted)

    def matching(self, contents: Contents, called: Collection[bytes], found: set[Filter]) -> Iterator[None]:
        """Put the filters that a flashblock passes into ``found``, in steps, at the end of which it is whole.

        ``called``: which of `addresses` stand in its transactions. Filters that come meanwhile may be missed. 800 with
        the same 200 addresses that every flashblock touches take 10 ms; a step takes at most half a one.
        """
        by_address: set[Filter] = set()
        by_topic: set[Filter] = set()
        yield from _gather(self._by_address, itertools.chain(contents.addresses, called), by_address)
        yield from _gather(self._by_topic, contents.topics, by_topic)
        found |= by_address | by_topic
        found -= self._match_all
        found |= by_address & by_topic


def _forget(index: dict[bytes, set[Filter]], items: Iterable[bytes], gone: Filter) -> None:
    for item in items:
        index[item].discard(gone)
        if not index[item]:
            del index[item]


def _gather(index: dict[bytes, set[Filter]], items: Iterable[bytes], found: set[Filter]) -> Iterator[None]:
    for item in items:
        if item in index:
            found |= index[item]
        yield


def parse_filter(query: Mapping[str, str]) -> Filter | None:
    """Read `addresses`, `topics` (separated by commas) and `match`; None where nothing is asked for.

    Raises InvalidFilterError for what is no address, topic or way to match, and for more than `MAX_ITEMS`.
    """
    match = query.get("match", "any")
    if match not in ("any", "all"):
        raise InvalidFilterError("match must be any or all")
    addresses = _parse_items(query, "addresses", ADDRESS_BYTES)
    topics = _parse_items(query, "topics", TOPIC_BYTES)
    if len(addresses) + len(topics) > MAX_ITEMS:
        raise InvalidFilterError(f"addresses and topics: at most {MAX_ITEMS} are taken")
    return Filter(addresses, topics, match_all=match == "all") if addresses or topics else None


def _parse_items(query: Mapping[str, str], name: str, size: int) -> frozenset[bytes]:
    texts = [text for text in map(str.strip, query.get(name, "").split(",")) if text]
    return frozenset(_parse_item(name, text, size) for text in texts)


def _parse_item(name: str, text: str, size: int) -> bytes:
    found = hex_bytes(text)
    if found is None or len(found) != size:
        shown = text[:_SHOWN_CHARACTERS]
        raise InvalidFilterError(f"{name}: expected 0x and {2 * size} hex digits, found {shown}")
    return found
