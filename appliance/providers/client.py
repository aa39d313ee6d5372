"""One websocket client: its calls side by side, its subscriptions, and an end that says why."""

import secrets
from typing import Final

import trio

from appliance.domain.errors import UnavailableError
from appliance.net.websocket_server import TRY_AGAIN_LATER, ServerWebsocket
from appliance.providers.feeds import Feeds
from appliance.providers.frontend import Frontend
from appliance.providers.heads import Extended
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.subscriptions import Logs, NewHeads, PendingTransactions, Registry, Subject, notification

# Over it the client's messages wait in its own connection.
MOST_CALLS: Final = 64
MOST_SUBSCRIPTIONS: Final = 128
# Notifications behind the answer that names their id; a client over it is closed, as one that does not read.
_MOST_EARLY: Final = 1024


class Client:
    """A `Follower` of feeds and the `Subscriber` of its messages."""

    def __init__(
        self, websocket: ServerWebsocket, frontend: Frontend, feeds: Feeds, metrics: ProviderMetrics, group: str
    ) -> None:
        self._websocket = websocket
        self._frontend = frontend
        self._feeds = feeds
        self._subscriptions = metrics.subscriptions.labels(group)
        self._dropped = metrics.clients_dropped.labels(group)
        self._registry = Registry(MOST_SUBSCRIPTIONS)
        self._early: dict[str, list[bytes]] = {}
        self._permits = trio.Semaphore(MOST_CALLS)

    def __repr__(self) -> str:
        return f"<Client {self._websocket.peer}, {len(self._registry)} subscriptions>"

    async def run(self) -> None:
        """Converse until either side closes."""
        try:
            async with trio.open_nursery() as nursery:

                async def handle(message: bytes) -> None:
                    await self._permits.acquire()
                    nursery.start_soon(self._answer, message)

                await self._websocket.run(handle)
                nursery.cancel_scope.cancel()
        finally:
            for subject in self._registry.subjects:
                self._feeds.leave(self, subject)
            self._subscriptions.dec(len(self._registry))

    async def _answer(self, message: bytes) -> None:
        turn = _Turn(self)
        try:
            answer = await self._frontend.answer(message, turn)
            if answer:
                self._send(answer)
            for identifier in turn.made:
                self._announced(identifier)
        finally:
            self._permits.release()

    async def subscribe(self, subject: Subject) -> str:
        """Follow it under a new id; what comes before the id was `announced` waits."""
        if self._registry.full:
            raise UnavailableError(f"at most {MOST_SUBSCRIPTIONS} subscriptions on a connection")
        await self._feeds.follow(self, subject)
        identifier = "0x" + secrets.token_hex(16)
        self._early[identifier] = []
        self._registry.add(identifier, subject)
        self._subscriptions.inc()
        return identifier

    def unsubscribe(self, identifier: str) -> bool:
        """Follow it no more."""
        before = self._registry.subjects
        if not self._registry.remove(identifier):
            return False
        self._early.pop(identifier, None)
        self._subscriptions.dec()
        for subject in before - self._registry.subjects:
            self._feeds.leave(self, subject)
        return True

    def _announced(self, identifier: str) -> None:
        """The client has the answer with this id."""
        for message in self._early.pop(identifier, []):
            self._send(message)

    def extended(self, step: Extended) -> None:
        """`HeadListener`."""
        for header in step.added:
            self._notify(NewHeads(), header.raw)

    def lost(self, missed: int) -> None:
        """`HeadListener`: a gap is never silent."""
        self._drop(f"{missed} heads were missed, subscribe again")

    def logs(self, subject: Logs, entries: list[bytes]) -> None:
        """`LogListener`."""
        for entry in entries:
            self._notify(subject, entry)

    def lost_logs(self, subject: Logs) -> None:
        """`LogListener`."""
        self._drop("logs were missed, subscribe again")

    def pending(self, subject: PendingTransactions, entry: bytes) -> None:
        """`Follower`."""
        self._notify(subject, entry)

    def _notify(self, subject: Subject, result: bytes) -> None:
        for identifier in self._registry.of(subject):
            message = notification(identifier, result)
            early = self._early.get(identifier)
            if early is None:
                self._send(message)
            elif len(early) < _MOST_EARLY:
                early.append(message)
            else:
                self._drop("too slow: too many notifications wait")

    def _send(self, message: bytes) -> None:
        if not self._websocket.closing and not self._websocket.send(message):
            self._dropped.inc()

    def _drop(self, reason: str) -> None:
        if not self._websocket.closing:
            self._dropped.inc()
            self._websocket.close(TRY_AGAIN_LATER, reason)


class _Turn:
    """One message of a client, and the subscriptions that it made."""

    def __init__(self, client: Client) -> None:
        self.made: list[str] = []
        self._client = client

    async def subscribe(self, subject: Subject) -> str:
        """`Subscriber`."""
        identifier = await self._client.subscribe(subject)
        self.made.append(identifier)
        return identifier

    def unsubscribe(self, identifier: str) -> bool:
        """`Subscriber`."""
        return self._client.unsubscribe(identifier)
