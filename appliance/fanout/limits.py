"""How many subscribers there may be: in all, from one address, with the keys of one app. Pure."""

import ipaddress
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

from appliance.domain.errors import ConfigError

UNCLAIMED_TIMEOUT_S = 60.0
IPV6_CLIENT_BITS = 64


@dataclass(frozen=True, slots=True)
class Full:
    """No room on this instance."""


@dataclass(frozen=True, slots=True)
class TooManyFromAddress:
    """This address has as many subscribers as it may."""


@dataclass(frozen=True, slots=True)
class TooManyOfApp:
    """The app whose key this is has as many subscribers as it may."""


@dataclass(frozen=True, slots=True)
class AppPlaces:
    """An app and how many places it may take."""

    name: str
    limit: int


@dataclass(slots=True)
class _Place:
    """What a place is counted for."""

    address: str
    app: str | None


class Ticket:
    """A place for one subscriber, from the admission of its request until its connection ends."""

    __slots__ = ("_give_back", "_move", "_unclaimed")

    def __init__(
        self, unclaimed: dict["Ticket", float], give_back: Callable[[], None], move: Callable[[str], None]
    ) -> None:
        self._unclaimed = unclaimed
        self._move = move
        self._give_back: Callable[[], None] | None = give_back

    def also_give_back(self, give_back: Callable[[], None]) -> None:
        """Give back something else with the place. Only before it is offered."""
        first = self._give_back

        def both() -> None:
            if first is not None:
                first()
            give_back()

        self._give_back = both

    def offer(self, now: float) -> None:
        """The answer is on its way: from now on the place expires unless it is claimed."""
        if self._give_back is not None:
            self._unclaimed[self] = now + UNCLAIMED_TIMEOUT_S

    def move_to(self, app: str) -> None:
        """Count for another app from now on, whatever its limit is."""
        if self._give_back is not None:
            self._move(app)

    def claim(self) -> bool:
        """The connection is up and holds the place until `release`; False when it was given back already."""
        self._unclaimed.pop(self, None)
        return self._give_back is not None

    def release(self) -> None:
        """Give the place back; more than once does nothing."""
        self._unclaimed.pop(self, None)
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class Admission:
    """Counts places. Bounded by itself: no more addresses than subscribers.

    A client that goes away between the answer to its request and the start of its stream never claims
    its place; `expire` gives such places back `UNCLAIMED_TIMEOUT_S` after the answer.
    """

    def __init__(self, max_subscribers: int, max_per_address: int) -> None:
        self._max_subscribers = max_subscribers
        self._max_per_address = max_per_address
        self._taken = 0
        self._by_address: Counter[str] = Counter()
        self._by_app: Counter[str] = Counter()  # no more of them than are configured
        self._unclaimed: dict[Ticket, float] = {}  # when they expire, in that order; no more than places

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    @property
    def max_per_address(self) -> int:
        """Places that one address may have."""
        return self._max_per_address

    @property
    def addresses(self) -> int:
        """Addresses that hold a place."""
        return len(self._by_address)

    def places_of(self, app: str) -> int:
        """Places that an app has taken."""
        return self._by_app.get(app, 0)

    def change(self, max_subscribers: int, max_per_address: int) -> None:
        """Other limits from now on. Whoever has a place keeps it."""
        self._max_subscribers = max_subscribers
        self._max_per_address = max_per_address

    def admit(
        self, address: str, now: float, app: AppPlaces | None = None
    ) -> Ticket | Full | TooManyFromAddress | TooManyOfApp:
        """Take a place, or say which limit is reached."""
        self.expire(now)
        if self._by_address.get(address, 0) >= self._max_per_address:
            return TooManyFromAddress()
        if app is not None and self._by_app.get(app.name, 0) >= app.limit:
            return TooManyOfApp()
        if self._taken >= self._max_subscribers:
            return Full()
        self._taken += 1
        self._by_address[address] += 1
        place = _Place(address, None)
        if app is not None:
            self._move(place, app.name)
        return Ticket(self._unclaimed, partial(self._release, place), partial(self._move, place))

    def expire(self, now: float) -> None:
        """Give back the places that nobody claimed in time."""
        due = itertools.takewhile(lambda item: item[1] <= now, self._unclaimed.items())
        for ticket, _ in list(due):
            ticket.release()

    def _move(self, place: _Place, app: str) -> None:
        if place.app is not None:
            _take_one(self._by_app, place.app)
        place.app = app
        self._by_app[app] += 1

    def _release(self, place: _Place) -> None:
        self._taken -= 1
        _take_one(self._by_address, place.address)
        if place.app is not None:
            _take_one(self._by_app, place.app)


def _take_one(counts: Counter[str], name: str) -> None:
    """Count one less, and forget who has none."""
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]


class ClientAddress:
    """Whose request it is: the peer's, unless the peer is a proxy that we trust to say whose it is."""

    def __init__(self, proxies: Iterable[str], header: str) -> None:
        """``proxies`` are IP addresses or networks. Raises ConfigError for anything else."""
        self._header = header.lower()
        try:
            self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in proxies)
        except ValueError as error:
            raise ConfigError(f"fanout.proxies: {error}") from error

    @property
    def header(self) -> str:
        """The header's name in lower case."""
        return self._header

    def is_proxy(self, peer: str) -> bool:
        """Whether this is one of the proxies: their connections are others'."""
        address = _parse(peer)
        return address is not None and any(address in network for network in self._proxies)

    def of(self, peer: str, forwarded: str | None) -> str:
        """The client's address, in IPv6 its network of 64 bits. ``forwarded`` is the header's value.

        Only the header's last entry counts: it is the one that our proxy wrote, what stands before it came
        from the client. Without a usable entry the request counts as the proxy's own.
        """
        address = _parse(peer)
        if forwarded is None or address is None or not any(address in network for network in self._proxies):
            return peer if address is None else _client(address)
        client = _parse(forwarded.rpartition(",")[2].strip())
        return _client(address if client is None else client)


def _client(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Whom an address stands for: in IPv6 one client has a whole /64 (RFC 6177), so that counts as one."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((int(address), IPV6_CLIENT_BITS), strict=False))


@lru_cache(maxsize=4096)  # parsing takes 20 us, and those who come back are the same ones
def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, also as `1.2.3.4:5678` or `[::1]:5678`, IPv4 in IPv6 unwrapped; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
