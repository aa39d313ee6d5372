"""Who is let in: the API key first, then the places of its app, of its address and of this instance."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from appliance.fanout.answers import RETRY_AFTER, refusal
from appliance.fanout.api_keys import ApiKeys, App, Grant
from appliance.fanout.connect_rate import ConnectRate
from appliance.fanout.filter_shares import FilterShares
from appliance.fanout.filters import Filter
from appliance.fanout.limits import Admission, AppPlaces, ClientAddress, Ticket, TooManyFromAddress, TooManyOfApp
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.routes import Route
from appliance.net.http import HttpRequest, HttpResponse

_UNAUTHORIZED: Final = 401
_TOO_MANY: Final = 429


class Gate:
    """Keys and places of one instance. It outlives a run of the plane, and a reload changes it in place."""

    def __init__(
        self, keys: ApiKeys, admission: Admission, client_address: ClientAddress, metrics: FanoutMetrics
    ) -> None:
        self.keys = keys
        self.admission = admission
        self._client_address = client_address
        self._rate = ConnectRate(admission.max_per_address)
        self._metrics = metrics
        self._shares = FilterShares()

    def change(self, apps: Sequence[App], *, public: bool, max_subscribers: int, max_per_ip: int) -> None:
        """Other keys and limits from now on. Whoever has a place keeps it; who may stay, `ApiKeys.holds` says."""
        self.keys = ApiKeys(apps, public=public)
        self.admission.change(max_subscribers, max_per_ip)
        self._rate = ConnectRate(max_per_ip)

    def may_connect(self, peer: str) -> bool:
        """Whether a connection from here is worth a handshake now; a proxy's always are."""
        if self._client_address.is_proxy(peer):
            return True
        admitted = self._rate.admit(self._client_address.of(peer, None), trio.current_time())
        if not admitted:
            self._metrics.rate_limited_requests.add()
        return admitted

    def authenticate(self, route: Route) -> Grant | HttpResponse | None:
        """Whose key the path holds, None for somebody who needs none; else 401, or 404 where there are no keys.

        A key that is wrong is refused also where one is not needed: its owner takes it for valid.
        """
        if route.key is None:
            return None if self.keys.open else refusal(_UNAUTHORIZED, "an API key is needed: connect to /ws/{api_key}")
        if not self.keys.configured:
            return refusal(404, "no such stream: connect to /ws, no API key is needed here")
        return self.keys.find(route.key) or refusal(_UNAUTHORIZED, "invalid API key")

    def admit(self, request: HttpRequest, grant: Grant | None, wanted: Filter | None = None) -> Ticket | HttpResponse:
        """A place, with room for the filter that is ``wanted``, or 429 that says which limit is reached."""
        address = self._client_address.of(request.peer, request.headers.get(self._client_address.header))
        if wanted is not None and not self._shares.has_room_for(address, wanted):
            return refusal(_TOO_MANY, "too many addresses and topics in the filters of this address", RETRY_AFTER)
        answer = self._admit(address, grant)
        if wanted is not None and isinstance(answer, Ticket):
            self._shares.take(address, wanted)
            answer.also_give_back(partial(self._shares.give_back, address, wanted))
        return answer

    def _admit(self, address: str, grant: Grant | None) -> Ticket | HttpResponse:
        places = None if grant is None else AppPlaces(grant.app, self.keys.limit(grant))
        ticket = self.admission.admit(address, trio.current_time(), places)
        if isinstance(ticket, Ticket):
            return ticket
        if isinstance(ticket, TooManyFromAddress):
            return refusal(_TOO_MANY, "too many subscribers from this address", RETRY_AFTER)
        if isinstance(ticket, TooManyOfApp):
            return refusal(_TOO_MANY, "too many subscribers with the keys of this app", RETRY_AFTER)
        return refusal(_TOO_MANY, "this host has no room for more subscribers", RETRY_AFTER)

    def count_refusal(self, answer: HttpResponse) -> None:
        """Note that this answer is given."""
        if answer.status == _UNAUTHORIZED:
            self._metrics.unauthorized_requests.add()
        elif answer.status == _TOO_MANY:
            self._metrics.rate_limited_requests.add()

    def statistics(self) -> dict[str, object]:
        """How many places are taken, and by which apps."""
        return {
            "admitted": self.admission.taken,
            "addresses": self.admission.addresses,
            "apps": {app: self.admission.places_of(app) for app in self.keys.names},
        }
