"""The HTTP/1.1 server: a listening socket, one task for each connection, one handler call at a time on each.

DESIGN.md has the life of a connection; http_session.py talks HTTP on one; here are the socket, the limit,
the drain and what is counted.
"""

import errno
import math
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from appliance.net import accepted_sockets, http_encoding, socket_io
from appliance.net.body_budget import BodyBudget
from appliance.net.greeting import Greet, Unanswered, greet
from appliance.net.hangups import Hangups
from appliance.net.http_parser import OnHead
from appliance.net.http_session import Connection, Counters, Handler, HandOver, HttpLimits, Session, Upgrade
from appliance.net.listening import open_listener
from appliance.net.lobby import Guest, Lobby, TakeTurn, endless
from appliance.net.quick_session import QuickHandler, QuickSession
from appliance.net.readiness import Readiness
from appliance.telemetry.logging import get_logger

__all__ = [
    "Connection",
    "HandOver",
    "Handler",
    "HttpLimits",
    "HttpServer",
    "OnHead",
    "Upgrade",
    "open_listener",
    "serve_http",
]

log = get_logger("net")

# Accepting one takes 30 to 50 us, and as much again to shake hands, there or in a task: all that in one pass of the
# event loop, which is what everybody else waits for when thousands come at once.
_ACCEPT_BATCH: Final = 4
_MOST_WAITING: Final = 4096  # in the kernel's backlog; others may still be coming, and a stop must come to an end
_ACCEPT_PAUSE_S: Final = 0.1
_VISIT_SLICE: Final = 100  # cancelling 100 sessions takes half a millisecond
_DISMISS_SLICE: Final = 10  # closing 10 connections takes a fifth of that, letting them in twice as much
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Who connects and asks at once has its answer long before this; only who has waited longer can be replaced.
_NEWCOMER_S: Final = 1.0


class HttpServer:
    """Serves ``handler`` on ``listener`` (which it closes) until ``stopping`` is set and the drain is over.

    With ``cancel_on_disconnect`` a handler is cancelled when its client goes away (see `Hangups`);
    without it the handler runs to its end and the answer is dropped.

    ``on_head`` sees every head before its body is read, and may answer it: then the connection is closed, and
    such a request does not count as one. At the limit of connections, silent clients must not keep out those
    who have something to ask: a new one takes the place of the connection that has waited longest among those
    that never finished a request (or, with ``on_head``, a head that it let pass), if that has waited for
    a second. When none has, the new one gets 503: in a flood newcomers do not close one another at once.

    Each few clients are accepted inside of ``accept_turn()``: so who has much else to do, does one thing at a time. It
    gives what says that no more are to be accepted in this turn.
    ``may_connect`` is asked with each client's address before anything else; whom it does not want gets 429.
    ``at_once`` is asked first where a whole request for a websocket is there (see greeting.py). Then clients have
    no task before their first request is whole (see `Lobby`), and `HttpLimits.first_request_timeout_s` for all of it.

    ``quick`` gets each request first, with the `Readiness` that tells of the clients' sockets (see `QuickSession`).
    Then a client that goes away ends what it asked for, as with ``cancel_on_disconnect``.
    """

    def __init__(
        self,
        handler: Handler,
        listener: socket.socket,
        *,
        limits: HttpLimits,
        stopping: trio.Event,
        drain_timeout_s: float,
        name: str = "http",
        cancel_on_disconnect: bool = False,
        on_head: OnHead | None = None,
        accept_turn: TakeTurn = endless,
        may_connect: Callable[[str], bool] | None = None,
        at_once: Greet | None = None,
        quick: tuple[QuickHandler, Readiness] | None = None,
    ) -> None:
        self.name = name
        self.address = accepted_sockets.address_of(listener)
        self._handler = handler
        self._listener = listener
        self._limits = limits
        self._stopping = stopping
        self._drain_timeout_s = drain_timeout_s
        self._cancel_on_disconnect = cancel_on_disconnect
        self._on_head = on_head
        self._accept_turn = accept_turn
        self._may_connect = may_connect
        self._at_once = at_once
        self._quick = quick
        self._hangups: Hangups | None = None
        self._bodies = BodyBudget(limits.max_body_bytes_in_flight)
        self._connections = 0
        self._sessions: set[Session] = set()
        self._silent: dict[Session, None] = {}  # in the order of their coming; some may have asked since
        self._accepted = self._refused = self._accept_pauses = 0
        self._counters = Counters()
        self._sweep_interval_s = _sweep_interval_s(limits)
        self._lobby: Lobby | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {self.name} on {self.address}, {self._connections} connections>"

    def statistics(self) -> dict[str, object]:
        """Connections now, and since the start: accepted, refused (over a limit), requests, what went wrong."""
        return {
            "address": self.address,
            "connections": self._connections,
            "accepted": self._accepted,
            "refused": self._refused,
            "accept_pauses": self._accept_pauses,
            "body_bytes": self._bodies.taken,
            **self._counters.statistics(),
        }

    def change_max_connections(self, max_connections: int) -> None:
        """Another limit from now on. Where there are more, nobody is closed, and nobody new comes in."""
        self._limits = replace(self._limits, max_connections=max_connections)

    async def run(self, *, task_status: trio.TaskStatus["HttpServer"] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve; returns when stopped and drained. ``started`` gets the server once it accepts."""
        with self._listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep_for_ever)
                if self._cancel_on_disconnect:
                    self._hangups = Hangups()
                    nursery.start_soon(self._hangups.run)
                try:
                    async with trio.open_nursery() as connections:
                        await self._accept_until_stopping(connections, task_status)
                        await self._accept_rest(connections)
                        await self._begin_drain(connections)
                finally:
                    if self._lobby is not None:
                        self._lobby.close()
                nursery.cancel_scope.cancel()

    async def _accept_until_stopping(
        self, connections: trio.Nursery, task_status: trio.TaskStatus["HttpServer"]
    ) -> None:
        async with trio.open_nursery() as accepting:
            if self._at_once is not None:
                self._lobby = Lobby(self._accept_turn, partial(self._look, connections, self._at_once))
                accepting.start_soon(self._lobby.run)
            accepting.start_soon(self._accept_for_ever, connections)
            task_status.started(self)
            await self._stopping.wait()
            accepting.cancel_scope.cancel()

    async def _accept_rest(self, nursery: trio.Nursery) -> None:
        """Who connected before the stop, and may have asked already, is answered; closing the socket would reset them.

        Not websockets: their plane is about to send everybody away, and who is refused goes elsewhere at once.
        """
        for _ in range(0 if self._at_once else _MOST_WAITING // _ACCEPT_BATCH):
            before = self._accepted + self._refused
            async with self._accept_turn() as is_over:
                is_able = self._accept_batch(nursery, is_over)
            if not is_able or self._accepted + self._refused == before:
                return
            await trio.lowlevel.checkpoint()

    async def _begin_drain(self, connections: trio.Nursery) -> None:
        self._listener.close()
        connections.cancel_scope.deadline = trio.current_time() + self._drain_timeout_s
        if self._lobby is not None:
            await self._empty_lobby(self._lobby, connections)
        await self._visit_sessions(Session.close_if_waiting)

    async def _empty_lobby(self, lobby: Lobby, connections: trio.Nursery) -> None:
        """Who has begun to ask is still answered."""
        while guests := lobby.leave_older(math.inf, _DISMISS_SLICE):
            for guest in guests:
                if socket_io.has_come(guest.socket):
                    connections.start_soon(self._serve, guest.socket, guest.peer)
                else:
                    self._ended()
                    guest.socket.close()
            await trio.lowlevel.checkpoint()

    async def _visit_sessions(self, visit: Callable[[Session], None]) -> None:
        for number, session in enumerate(list(self._sessions)):
            visit(session)
            if number % _VISIT_SLICE == _VISIT_SLICE - 1:
                await trio.lowlevel.checkpoint()

    async def _accept_for_ever(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            async with self._accept_turn() as is_over:
                if self._lobby is not None:  # who came earlier is let in first, or thousands would wait there
                    self._lobby.visit(is_over)
                is_able = self._accept_batch(nursery, is_over)
            if not is_able:
                # Out of descriptors: new clients wait in the backlog while others finish.
                self._accept_pauses += 1
                log.error("cannot accept", server=self.name, pause_s=_ACCEPT_PAUSE_S, **self._load())
                await trio.sleep(_ACCEPT_PAUSE_S)

    def _load(self) -> dict[str, int]:
        return {"connections": self._connections, "accept_pauses": self._accept_pauses}

    def _accept_batch(self, nursery: trio.Nursery, is_over: Callable[[], bool]) -> bool:
        """Accept what is there, up to a batch; false when the process is out of resources."""
        for _ in range(_ACCEPT_BATCH):
            try:
                accepted, address = self._listener.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    return False
                continue  # that client went away while it waited (accept(2))
            self._admit(accepted, accepted_sockets.peer_of(address), nursery)
            if is_over():
                break
        return True

    def _admit(self, accepted: socket.socket, peer: str, nursery: trio.Nursery) -> None:
        if self._may_connect is not None and not self._may_connect(peer):
            self._refused += 1
            accepted_sockets.refuse(accepted, http_encoding.TOO_OFTEN)
            return
        if self._connections >= self._limits.max_connections and not self._make_room():
            self._refused += 1
            accepted_sockets.refuse(accepted, http_encoding.BUSY)
            return
        self._accepted += 1
        self._connections += 1
        if self._lobby is None or self._at_once is None:
            nursery.start_soon(self._serve, accepted, peer)
            return
        why = self._greet(accepted, peer, self._at_once)
        if why is Unanswered.NOT_YET:
            self._let_wait(self._lobby, accepted, peer)
        elif why is Unanswered.NOT_AT_ONCE:
            nursery.start_soon(self._serve, accepted, peer)

    def _let_wait(self, lobby: Lobby, accepted: socket.socket, peer: str) -> None:
        try:
            lobby.enter(accepted, peer)
        except OSError as error:  # out of watches, or of memory: that costs this client alone
            log.error("a client cannot be waited for", server=self.name, error=repr(error))
            self._ended()
            accepted.close()

    def _look(self, nursery: trio.Nursery, at_once: Greet, guest: Guest, gone: bool) -> bool:
        """Something came from a guest of the lobby, or its end; whether it leaves."""
        why = Unanswered.NOT_AT_ONCE if gone else self._greet(guest.socket, guest.peer, at_once)
        if why is Unanswered.NOT_AT_ONCE:
            nursery.start_soon(self._serve, guest.socket, guest.peer)
        return why is not Unanswered.NOT_YET

    def _greet(self, accepted: socket.socket, peer: str, at_once: Greet) -> Unanswered | None:
        """None when nothing is left to do here: the connection is a websocket in other hands, or broken."""
        try:
            accepted_sockets.prepare(accepted)
            greeted = greet(accepted, peer, self._limits, at_once)
            if isinstance(greeted, Unanswered):
                return greeted
            self._counters.requests += 1
            self._counters.upgrades += 1
            greeted[0].take(accepted, greeted[1], self._ended)
            return None
        except OSError as error:
            log.debug("client went away", server=self.name, error=repr(error))
        except Exception:
            log.exception("connection failed", server=self.name)
        self._ended()
        accepted.close()
        return None

    def _dismiss(self, guest: Guest, answer: bytes) -> bool:
        """Close the connection of a guest who has left the lobby; whether it has begun to ask, and had an answer."""
        self._ended()
        has_begun = socket_io.has_come(guest.socket)
        if has_begun:
            accepted_sockets.refuse(guest.socket, answer)
        else:
            guest.socket.close()
        return has_begun

    def _ended(self) -> None:
        self._connections -= 1

    def _make_room(self) -> bool:
        """Replace the client that has been silent longest; false when there is none, or not for long enough.

        It goes in the next turn of the loop: until then the limit is exceeded by a batch or two.
        """
        if self._lobby is not None and self._dismiss_oldest(self._lobby):
            return True
        while self._silent:
            session = next(iter(self._silent))
            asks_nothing = session.asks_nothing()
            if asks_nothing and trio.current_time() - session.began < _NEWCOMER_S:
                return False
            del self._silent[session]
            if asks_nothing:
                session.replace()
                return True
        return False

    async def _serve(self, accepted: socket.socket, peer: str) -> None:
        handed_over = False
        try:
            upgrade, rest = await self._talk_http(accepted, peer) or (None, b"")
            if isinstance(upgrade, HandOver):
                upgrade.take(accepted, rest, self._ended)
                handed_over = True
            elif upgrade is not None:
                await upgrade.serve(Connection.wrap(accepted, peer), rest)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("client went away", server=self.name, error=repr(error))
        except Exception:
            log.exception("connection failed", server=self.name)
        finally:
            if not handed_over:
                self._close(accepted)

    def _close(self, accepted: socket.socket) -> None:
        self._ended()
        if accepted.fileno() != -1:
            trio.lowlevel.notify_closing(accepted)
            accepted.close()

    async def _talk_http(self, accepted: socket.socket, peer: str) -> tuple[Upgrade | HandOver, bytes] | None:
        """Everything that only HTTP needs lives in the session, and is gone when this returns."""
        accepted_sockets.prepare(accepted)
        fd = accepted.fileno()
        session = self._create_session(accepted, peer)
        self._sessions.add(session)
        self._silent[session] = None
        try:
            return await session.run()
        finally:
            self._sessions.discard(session)
            self._silent.pop(session, None)
            if self._quick is not None:
                self._quick[1].forget(fd)
            elif self._hangups is not None:
                self._hangups.forget(fd)
            session.release()

    def _create_session(self, accepted: socket.socket, peer: str) -> Session:
        """One that is told when its client hangs up, where that is wanted."""
        common = (accepted, peer, self._handler, self._limits, self._stopping, self._counters, self.name)
        if self._quick is not None:
            quick, readiness = self._quick
            quick_session = QuickSession(quick, *common, bodies=self._bodies, on_head=self._on_head)
            readiness.watch(accepted.fileno(), quick_session.on_event)
            return quick_session
        session = Session(*common, bodies=self._bodies, on_head=self._on_head)
        if self._hangups is not None:
            self._hangups.watch(accepted.fileno(), session.client_gone)
        return session

    def _dismiss_oldest(self, lobby: Lobby) -> bool:
        """Of the guests who are no newcomers, the first who has not asked in the meantime, among a few."""
        for _ in range(_ACCEPT_BATCH):
            looked_at, silent = lobby.expire(trio.current_time() - _NEWCOMER_S, 1)
            if silent:
                self._counters.replaced += 1
                self._dismiss(silent[0], http_encoding.BUSY)
                return True
            if not looked_at:
                break
        return False

    async def _sweep_for_ever(self) -> None:
        """Close what is past its deadline, which is noticed up to an eighth of the shortest timeout late."""
        while True:
            await trio.sleep(self._sweep_interval_s)
            await self._visit_sessions(partial(Session.expire_if_due, now=trio.current_time()))
            if self._lobby is not None:
                await self._expire_guests(self._lobby)

    async def _expire_guests(self, lobby: Lobby) -> None:
        waited_s = min(self._limits.first_request_timeout_s, self._limits.idle_timeout_s)
        looked = 1
        while looked:
            looked, guests = lobby.expire(trio.current_time() - waited_s, _DISMISS_SLICE)
            for guest in guests:
                self._counters.request_timeouts += self._dismiss(guest, http_encoding.TOO_LATE)
            await trio.lowlevel.checkpoint()


async def serve_http(
    handler: Handler,
    listener: socket.socket,
    *,
    limits: HttpLimits,
    stopping: trio.Event,
    drain_timeout_s: float,
    name: str = "http",
    cancel_on_disconnect: bool = False,
    on_head: OnHead | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an `HttpServer`; its parameters, and ``started`` gets it."""
    server = HttpServer(
        handler,
        listener,
        limits=limits,
        stopping=stopping,
        drain_timeout_s=drain_timeout_s,
        name=name,
        cancel_on_disconnect=cancel_on_disconnect,
        on_head=on_head,
    )
    await server.run(task_status=task_status)


def _sweep_interval_s(limits: HttpLimits) -> float:
    waits_s = (limits.first_request_timeout_s, limits.idle_timeout_s)
    shortest_s = min(*waits_s, limits.header_timeout_s, limits.body_timeout_s, limits.write_timeout_s)
    return min(shortest_s / 8, 1.0)
