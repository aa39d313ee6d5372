"""All that a group's websocket clients can follow: each thing is followed once, for as long as anybody wants it."""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.providers.group import Group
from appliance.providers.head_feed import HeadFeed, HeadListener
from appliance.providers.links import WebsocketLink
from appliance.providers.log_feed import LogFeed, LogListener
from appliance.providers.subscriptions import Logs, NewHeads, PendingTransactions, Subject
from appliance.providers.watchers import poll_for_ever

NO_PENDING: Final = "newPendingTransactions: none of this group's endpoints has a websocket"

_AGAIN_S: Final = 0.5


class Follower(HeadListener, LogListener, Protocol):
    """A client."""

    def pending(self, subject: PendingTransactions, entry: bytes) -> None:
        """A transaction that entered an endpoint's pool."""


class Feeds:
    """Heads, logs by filter, pending transactions."""

    def __init__(self, group: Group, count_filled_in: Callable[[int], None]) -> None:
        self._group = group
        self._bound = group.settings.max_missed_heads
        self._heads = HeadFeed(group.ask, self._bound, count_filled_in)
        self._logs: dict[Logs, LogFeed] = {}
        self._pending: dict[PendingTransactions, _Pending] = {}
        self._nursery: trio.Nursery | None = None
        self._switched = trio.Event()
        group.on_head = self._heads.offer
        group.on_switch = self._on_switch

    def _on_switch(self) -> None:
        switched, self._switched = self._switched, trio.Event()
        switched.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Feed until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._heads.run)
            nursery.start_soon(poll_for_ever, self._group, lambda: self._heads.wanted)
            task_status.started()
            await trio.sleep_forever()

    async def follow(self, follower: Follower, subject: Subject) -> None:
        """``follower`` is told what belongs to ``subject`` from now on. Raises UnavailableError."""
        deadline_s = self._group.settings.deadline_s
        with trio.move_on_after(deadline_s):
            await self._follow(follower, subject)
            return
        raise UnavailableError(f"no head to begin with within {deadline_s:g} s")

    async def _follow(self, follower: Follower, subject: Subject) -> None:
        match subject:
            case NewHeads():
                await self._heads.join(follower)
            case Logs():
                await self._follow_logs(follower, subject)
            case PendingTransactions():
                self._follow_pending(follower, subject)

    def leave(self, follower: Follower, subject: Subject) -> None:
        """``follower`` wants no more of it."""
        match subject:
            case NewHeads():
                self._heads.leave(follower)
            case Logs() if subject in self._logs:
                self._leave_logs(follower, subject)
            case PendingTransactions() if subject in self._pending:
                self._leave_pending(follower, subject)

    async def _follow_logs(self, follower: Follower, subject: Logs) -> None:
        feed = self._logs.get(subject)
        if feed is None:
            feed = LogFeed(subject, self._group.ask, self._bound)
            await self._heads.join(feed)
            if subject in self._logs:  # another client was faster
                self._heads.leave(feed)
            else:
                self._logs[subject] = feed
                self._tasks.start_soon(feed.run)
        self._logs[subject].listeners[follower] = None

    def _leave_logs(self, follower: Follower, subject: Logs) -> None:
        feed = self._logs[subject]
        feed.listeners.pop(follower, None)
        if not feed.listeners:
            del self._logs[subject]
            self._heads.leave(feed)
            feed.scope.cancel()

    def _follow_pending(self, follower: Follower, subject: PendingTransactions) -> None:
        if not any(isinstance(link, WebsocketLink) for link in self._group.links.values()):
            raise UnavailableError(NO_PENDING)
        feed = self._pending.get(subject)
        if feed is None:
            feed = self._pending[subject] = _Pending(subject)
            self._tasks.start_soon(self._run_pending, feed)
        feed.followers[follower] = None

    def _leave_pending(self, follower: Follower, subject: PendingTransactions) -> None:
        feed = self._pending[subject]
        feed.followers.pop(follower, None)
        if not feed.followers:
            del self._pending[subject]
            feed.scope.cancel()

    async def _run_pending(self, feed: "_Pending") -> None:
        """Subscribe at the best endpoint with a websocket, and anew wherever that is after a switch or an end."""
        with feed.scope:
            while True:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_on, self._switched, scope)
                        await self._stream_pending(feed)
                        nursery.cancel_scope.cancel()
                if not scope.cancelled_caught:
                    await trio.sleep(_AGAIN_S)

    async def _stream_pending(self, feed: "_Pending") -> None:
        link = self._best_websocket()
        if link is None:
            return
        try:
            await link.stream(feed.subject.params, feed.take)
        except (UnavailableError, DecodeError):
            return  # its connection is looked after elsewhere

    def _best_websocket(self) -> WebsocketLink | None:
        links = [self._group.links[name] for name in self._group.candidates()]
        return next((link for link in links if isinstance(link, WebsocketLink) and link.is_up), None)

    @property
    def _tasks(self) -> trio.Nursery:
        if self._nursery is None:
            raise UnavailableError("the provider group is not running yet")
        return self._nursery

    def statistics(self) -> dict[str, object]:
        """What is followed."""
        return {"heads": self._heads.wanted, "log_filters": len(self._logs), "pending": len(self._pending)}


class _Pending:
    """One kind of pending transactions."""

    def __init__(self, subject: PendingTransactions) -> None:
        self.subject = subject
        self.followers: dict[Follower, None] = {}
        self.scope = trio.CancelScope()

    def take(self, entry: bytes) -> None:
        """A notification of the endpoint."""
        for follower in list(self.followers):
            follower.pending(self.subject, entry)


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
