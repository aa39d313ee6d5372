"""The connection to one endpoint: pooled HTTP, or one websocket that is kept open and pushes heads."""

from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.net.backoff import Backoff
from appliance.net.errors import ConnectFailed, ConnectionBroken
from appliance.net.http_client import HttpClient
from appliance.net.opening import parse_url
from appliance.net.websocket_client import conversation, raise_only
from appliance.providers.heads import Header
from appliance.providers.settings import EndpointSettings, GroupSettings
from appliance.providers.websocket_rpc import NotSent, Sink, WebsocketRpc
from appliance.wire.jsonrpc import Response, decode_response, encode_request

# Calls that run at one endpoint at a time; others wait within their own deadlines.
MOST_CALLS: Final = 64
MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
STEADY_S: Final = 5.0
"""A websocket that lived this long is opened again at once."""
_HEADERS: Final = (("content-type", "application/json"),)


@dataclass(slots=True, eq=False)
class Attempt:
    """One call at one endpoint. ``sent`` is set before its first byte goes out, ``resent`` when it goes out again."""

    method: str
    params: bytes
    repeatable: bool
    sent: bool = False
    resent: bool = False


class LinkEvents(Protocol):
    """Who wants to know what happens on a link by itself."""

    def pushed_head(self, name: str, header: Header) -> None:
        """The endpoint has a new head."""

    def connection_lost(self, name: str, why: str) -> None:
        """A connection that was there has ended."""

    def connection_refused(self, name: str, why: str) -> None:
        """No connection can be had."""


class Link(Protocol):
    """What a group needs of an endpoint. ``origin`` is scheme, host and port."""

    name: str
    origin: str

    @property
    def pushes_heads(self) -> bool:
        """Whether new heads come by themselves now."""

    async def call(self, attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        """HTTP status (200 on a websocket) and response, None where it is no JSON-RPC.

        Raises NotSent, or another UnavailableError when it may have been sent.
        """

    async def run(self, events: LinkEvents) -> None:
        """Keep the connection, where one is kept."""


class HttpLink:
    """An endpoint behind http or https."""

    def __init__(self, endpoint: EndpointSettings, timeout_s: float) -> None:
        self.name = endpoint.name
        self._client = HttpClient(
            endpoint.url,
            max_connections=MOST_CALLS,
            connect_timeout_s=timeout_s,
            max_response_bytes=MAX_RESPONSE_BYTES,
        )
        self.origin = self._client.origin

    def __repr__(self) -> str:
        return f"<HttpLink {self.name} {self.origin}>"

    @property
    def pushes_heads(self) -> bool:
        """HTTP pushes nothing."""
        return False

    async def call(self, attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        """See `Link`."""
        attempt.sent = True
        body = encode_request(b"1", attempt.method, attempt.params or b"[]")
        try:
            answer = await self._client.request(
                "POST", None, _HEADERS, body, timeout_s=timeout_s, repeatable=attempt.repeatable
            )
        except ConnectFailed as error:
            raise NotSent(str(error)) from None
        return answer.status, _response_in(answer.body)

    async def run(self, events: LinkEvents) -> None:
        """Nothing to keep, until cancelled: then idle connections are closed."""
        try:
            await trio.sleep_forever()
        finally:
            self._client.close()


class WebsocketLink:
    """An endpoint behind ws or wss: one connection for calls and subscriptions, opened again when it ends."""

    def __init__(self, endpoint: EndpointSettings, settings: GroupSettings) -> None:
        self.name = endpoint.name
        self.origin = parse_url(endpoint.url, "ws", "wss").origin
        self._url = endpoint.url
        self._settings = settings
        self._permits = trio.Semaphore(MOST_CALLS)
        self._rpc: WebsocketRpc | None = None
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._pushes = False

    def __repr__(self) -> str:
        return f"<WebsocketLink {self.name} {self.origin}, {'up' if self._rpc else 'down'}>"

    @property
    def pushes_heads(self) -> bool:
        """Whether the endpoint took our subscription to heads on this connection."""
        return self._pushes

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._rpc is not None

    async def call(self, attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        """See `Link`. While the connection is being opened, calls wait for it.

        A call whose connection ends goes out once more on the next one, if it may, as over HTTP.
        """
        with trio.move_on_after(timeout_s):
            async with self._permits:
                return 200, _whole(await self._call(attempt))
        text = f"no answer from {self.origin} within {timeout_s * 1000:.0f} ms"
        raise UnavailableError(text) if attempt.sent else NotSent(text)

    async def _call(self, attempt: Attempt) -> Response:
        again = attempt.repeatable
        while True:
            rpc = await self._wait_up()
            before, attempt.sent = attempt.sent, True
            try:
                return await rpc.call(attempt.method, attempt.params or b"[]")
            except NotSent:
                attempt.sent = before
            except ConnectionBroken:
                if not again:
                    raise
                again = False
                attempt.resent = True
            await self._wait_down(rpc)

    async def stream(self, params: bytes, sink: Sink) -> NoReturn:
        """Subscribe, and feed ``sink`` until the connection ends or the caller is cancelled.

        Raises UnavailableError at the connection's end, DecodeError when the endpoint takes no such subscription.
        """
        rpc = await self._wait_up()
        identifier = await rpc.subscribe(params, sink)
        try:
            await self._wait_down(rpc)
        finally:
            if self._rpc is rpc:
                with trio.move_on_after(1, shield=True):  # it is being cancelled, and should not go on being fed
                    await rpc.unsubscribe(identifier)
        raise UnavailableError(f"the websocket to {self.origin} has ended")

    async def run(self, events: LinkEvents) -> None:
        """Keep the connection until cancelled."""
        backoff = Backoff(initial_s=0.05, maximum_s=5.0)
        while True:
            opened_at = trio.current_time()
            try:
                await self._converse(events)
            except (ConnectFailed, DecodeError) as error:
                events.connection_refused(self.name, str(error))
            except UnavailableError as error:
                events.connection_lost(self.name, str(error))
            if trio.current_time() - opened_at >= STEADY_S:
                backoff.reset()
            await trio.sleep(backoff.next())

    async def _wait_up(self) -> WebsocketRpc:
        while self._rpc is None:
            await self._changed.wait()
        return self._rpc

    async def _wait_down(self, rpc: WebsocketRpc) -> None:
        while self._rpc is rpc:
            await self._changed.wait()

    async def _converse(self, events: LinkEvents) -> None:
        async with conversation(
            self._url,
            ping_interval_s=self._settings.ping_interval_s,
            pong_timeout_s=self._settings.pong_timeout_s,
            connect_timeout_s=self._settings.timeout_s,
            max_message_bytes=MAX_MESSAGE_BYTES,
        ) as (inbox, send):
            rpc = WebsocketRpc(send, self.origin)
            self._now(rpc)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow_heads, rpc, events)
                    await rpc.read(inbox)
            except BaseExceptionGroup as group:
                raise_only(group)
            finally:
                self._now(None)
                rpc.close()

    def _now(self, rpc: WebsocketRpc | None) -> None:
        self._rpc = rpc
        self._pushes = False
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _follow_heads(self, rpc: WebsocketRpc, events: LinkEvents) -> None:
        def take(raw: bytes) -> None:
            try:
                events.pushed_head(self.name, Header.decode(raw))
            except DecodeError as error:
                events.connection_lost(self.name, f"{self.origin}: {error}")

        try:
            await rpc.subscribe(b'["newHeads"]', take)
            self._pushes = True
        except (DecodeError, UnavailableError):
            self._pushes = False  # its heads are polled, as those of HTTP


def open_link(endpoint: EndpointSettings, settings: GroupSettings) -> HttpLink | WebsocketLink:
    """The link that the URL's scheme asks for. Raises ConfigError for a URL that is none."""
    if endpoint.is_websocket:
        return WebsocketLink(endpoint, settings)
    return HttpLink(endpoint, settings.timeout_s)


def _response_in(body: bytes) -> Response | None:
    try:
        return _whole(decode_response(body))
    except DecodeError:
        return None


def _whole(response: Response) -> Response | None:
    """A response has a result or an error; null is a result."""
    return response if memoryview(response.result).nbytes or memoryview(response.error).nbytes else None
