"""One upstream of the engine: the local execution client, or a builder."""

import copy
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import trio

from appliance.domain.errors import UnavailableError
from appliance.engine.metrics import EngineMetrics
from appliance.net.http import Headers, HttpResponse
from appliance.net.http_client import HttpClient, PendingRequest
from appliance.net.http_exchange import BodyWatch
from appliance.wire import jwt

_MIB: Final = 1024 * 1024

MAX_ANSWER_BYTES: Final = 64 * _MIB
"""The EL is trusted to send what it must."""

MAX_BUILDER_ANSWER_BYTES: Final = 24 * _MIB
"""op-node gossips blocks of at most 10 MiB (op-node/p2p, maxGossipSize), which are 20 MiB of hex. A builder that sends
more would only hold the loop: 64 MiB take 0.2 s to look through."""


class _Tally:
    """Counted over all views of one upstream."""

    def __init__(self) -> None:
        self.failures = 0


class Upstream:
    """Engine API calls to one URL, each with a token of this second (`wall_clock`, Unix seconds).

    ``timeout_s`` bounds a call as a whole, connecting included. An async context manager: it owns its
    connections. Calls that are only passed through have connections of their own, so that many slow ones of them
    never make a block wait; all others fail when the answer is over ``max_answer_bytes``. Raises
    ConfigError for a URL that is none.
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
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._client = HttpClient(
            url,
            max_connections=max_connections,
            connect_timeout_s=timeout_s,
            max_response_bytes=max_answer_bytes,
        )
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
        call = self.begin(body, pass_through=pass_through)
        try:
            return await call.response()
        finally:
            call.count()

    def begin(self, body: bytes, *, pass_through: bool = False) -> "UpstreamCall":
        """`post` in two steps: where a connection is idle, the call goes out before this returns.

        Await `UpstreamCall.response` once, or `abandon` it. Raises UnavailableError while it is switched off.
        """
        if self._is_off():
            raise UnavailableError(f"{self.name}: builders are switched off")
        client = self._pass_through if pass_through else self._client
        request = client.begin("POST", None, self._signed_headers(), body, timeout_s=self._timeout_s)
        return UpstreamCall(self, request)

    def count(self, seconds: float | None) -> None:
        """A call that was answered after so many seconds, or was not."""
        if seconds is None:
            self._tally.failures += 1
            self._failed.inc()
        else:
            self._seconds.observe(seconds)

    def named(self, error: UnavailableError) -> UnavailableError:
        """The same error with the upstream's name and URL in it."""
        text = str(error)
        return UnavailableError(f"{self.name}: {text}" if self._client.origin in text else f"{self.origin}: {text}")

    def _signed_headers(self) -> Headers:
        """Made once per second: `sign` answers the very same token until then."""
        token = jwt.sign(self._secret, self._wall_clock())
        if token is not self._token:
            self._token = token
            self._headers = Headers({"authorization": f"Bearer {token}", "content-type": "application/json"})
        return self._headers

    def statistics(self) -> dict[str, object]:
        """Its connections and calls, and how many calls had no answer."""
        own = {"name": self.name, "failures": self._tally.failures}
        return {**own, **self._client.statistics(), "pass_through": self._pass_through.statistics()}


class UpstreamCall:
    """A call that is on its way, or waits for a connection."""

    __slots__ = ("_began", "_over", "_request", "_seconds", "upstream")

    def __init__(self, upstream: Upstream, request: PendingRequest) -> None:
        self.upstream = upstream
        self._request = request
        self._began = trio.current_time()
        self._seconds: float | None = None
        self._over = False

    async def response(self, watch: BodyWatch | None = None) -> HttpResponse:
        """The answer, whatever its status; raises UnavailableError, its text names the upstream and its URL.

        ``watch`` sees a large body come.
        """
        try:
            response = await self._request.response(watch)
        except UnavailableError as error:
            self._over = True
            raise self.upstream.named(error) from error
        self._over, self._seconds = True, trio.current_time() - self._began
        return response

    def count(self) -> None:
        """In metrics: once the caller has done what is urgent. A call that was cancelled counts as none."""
        if self._over:
            self.upstream.count(self._seconds)

    def abandon(self) -> None:
        """Nobody will await it."""
        self._request.abandon()
