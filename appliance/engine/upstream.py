"""One upstream of the engine: the local execution client, or a builder."""

import copy
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from appliance.domain.errors import UnavailableError
from appliance.engine.metrics import EngineMetrics
from appliance.net.http import Headers, HttpResponse
from appliance.net.http_client import HttpClient, PendingRequest
from appliance.wire import jwt


class _Tally:
    """Counted over all views of one upstream."""

    def __init__(self) -> None:
        self.failures = 0


class Upstream:
    """Engine API calls to one URL, each with a token of this second (`wall_clock`, Unix seconds).

    ``timeout_s`` bounds a call as a whole, connecting included. An async context manager: it owns its
    connections. Calls that are only passed through have connections of their own, so that many slow ones of them
    never make a block wait. Raises ConfigError for a URL that is none.
    """

    def __init__(
        self,
        name: str,
        url: str,
        secret: bytes,
        metrics: EngineMetrics,
        *,
        timeout_s: float = 1.0,
        max_connections: int = 64,
        max_pass_through: int = 32,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._client = HttpClient(url, max_connections=max_connections, connect_timeout_s=timeout_s)
        self._pass_through = HttpClient(url, max_connections=max_pass_through, connect_timeout_s=timeout_s)
        self._secret = secret
        self._token = ""
        self._headers = Headers()
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._seconds = metrics.upstream_seconds.labels(name)
        self._failed = metrics.upstream_failures.labels(name)
        self._tally = _Tally()
        self._is_off: Callable[[], bool] = lambda: False

    def __repr__(self) -> str:
        return f"<Upstream {self.origin}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()
        self._pass_through.close()

    def switched(self, is_off: Callable[[], bool]) -> Self:
        """This upstream, over the same connections, for calls that are not made while ``is_off`` says so.

        The last door: whatever still waits somewhere for its turn does not get out either.
        """
        view = copy.copy(self)
        view._is_off = is_off  # noqa: SLF001 it is one of us
        return view

    @property
    def origin(self) -> str:
        """Name and URL without path and credentials, for people."""
        return f"{self.name} {self._client.origin}"

    async def post(self, body: bytes, *, pass_through: bool = False) -> HttpResponse:
        """The answer, whatever its status; raises UnavailableError, its text names it and its URL."""
        return await self.begin(body, pass_through=pass_through).response()

    def begin(self, body: bytes, *, pass_through: bool = False) -> "UpstreamCall":
        """`post` in two steps: where a connection is idle, the call goes out before this returns.

        Await `UpstreamCall.response` once, or `abandon` it. Raises UnavailableError while it is switched off.
        """
        if self._is_off():
            raise UnavailableError(f"{self.name}: builders are switched off")
        client = self._pass_through if pass_through else self._client
        request = client.begin("POST", None, self._signed_headers(), body, timeout_s=self._timeout_s)
        return UpstreamCall(self, request)

    def answered(self, began: float) -> None:
        """Count a call that was answered."""
        self._seconds.observe(trio.current_time() - began)

    def failed(self, error: UnavailableError) -> UnavailableError:
        """Count a call that was not, and name the upstream in its error."""
        self._tally.failures += 1
        self._failed.inc()
        return UnavailableError(self._named(error))

    def _signed_headers(self) -> Headers:
        """Made once per second: `sign` answers the very same token until then."""
        token = jwt.sign(self._secret, self._wall_clock())
        if token is not self._token:
            self._token = token
            self._headers = Headers({"authorization": f"Bearer {token}", "content-type": "application/json"})
        return self._headers

    def _named(self, error: UnavailableError) -> str:
        text = str(error)
        return f"{self.name}: {text}" if self._client.origin in text else f"{self.origin}: {text}"

    def statistics(self) -> dict[str, object]:
        """Its connections and calls, and how many calls had no answer."""
        own = {"name": self.name, "failures": self._tally.failures}
        return {**own, **self._client.statistics(), "pass_through": self._pass_through.statistics()}


class UpstreamCall:
    """A call that is on its way, or waits for a connection."""

    __slots__ = ("_began", "_request", "upstream")

    def __init__(self, upstream: Upstream, request: PendingRequest) -> None:
        self.upstream = upstream
        self._request = request
        self._began = trio.current_time()

    async def response(self) -> HttpResponse:
        """The answer, whatever its status; raises UnavailableError, its text names the upstream and its URL."""
        try:
            response = await self._request.response()
        except UnavailableError as error:
            raise self.upstream.failed(error) from error
        self.upstream.answered(self._began)
        return response

    def abandon(self) -> None:
        """Nobody will await it."""
        self._request.abandon()
