"""The connections of all subscribers: what they say, and their end. Two tasks, however many there are.

    admit -> watched -> bytes came: parsed, answered -> drop, or the other side is gone -> ended
                                  `-> closing: what comes is thrown away

Idle, a subscriber is a session, a socket and the `Visitor` here: no task sleeps for it. Reading is done in turns
(turns.py), so that neither a flood of messages nor thousands of connections that break at once hold the loop.
"""

import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from appliance.fanout.frames import Variant
from appliance.fanout.hub import Hub
from appliance.fanout.inbound import CloseReceived, Heard, Inbound, PingReceived, Violation, is_bare_pong
from appliance.fanout.session import Session
from appliance.fanout.subscriber import abandon
from appliance.fanout.turns import Turns
from appliance.net.readable import ReadableSet
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

# One read parses at most some 85 frames, about a millisecond.
RECEIVE_BYTES: Final = 512
# What is thrown away while the other side finishes closing.
DISCARD_BYTES: Final = 16 * 1024
# Sockets that are asked for at once; those that the turn is too short for wait for the next one.
EVENTS: Final = 64


class Visitor:
    """One subscriber's connection. ``ended`` is called once, when its socket is closed."""

    __slots__ = ("discards", "ended", "inbound", "leaving", "session", "socket", "unread")

    def __init__(self, session: Session, sock: socket.socket, unread: bytes, ended: Callable[[], None]) -> None:
        self.session = session
        self.socket = sock
        self.unread = unread  # read already, before it came to us; parsed in turns as all else
        self.ended = ended
        self.inbound: Inbound | None = None  # made when it says more than pongs
        self.discards = False
        self.leaving = False


class Attendance:
    """Who is connected. What is queued here is bounded by their number: each is in a queue once at most."""

    def __init__(self, hub: Hub, turns: Turns) -> None:
        self._hub = hub
        self._turns = turns
        self._ready = ReadableSet()
        self._visitors: dict[int, Visitor] = {}  # by file descriptor
        self._to_read: deque[int] = deque()
        self._to_do: deque[Visitor] = deque()  # who leaves, or came with bytes behind its request
        self._something_to_do = trio.Event()
        self._empty = trio.Event()

    def __len__(self) -> int:
        return len(self._visitors)

    def admit(self, session: Session, sock: socket.socket, data: bytes, ended: Callable[[], None]) -> None:
        """Take a connection over, and attach its session to the hub. ``data`` was read from it already."""
        visitor = Visitor(session, sock, data, ended)
        session.drop = partial(self._drop, visitor)
        if data:
            self._do_later(visitor)
        else:
            self._ready.watch(sock.fileno())
        self._visitors[sock.fileno()] = visitor
        self._hub.attach(session)

    async def run(self) -> None:
        """Run until cancelled; then every connection is cut."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_for_ever)
                nursery.start_soon(self._work_for_ever)
        finally:
            for visitor in list(self._visitors.values()):
                self._end(visitor)
            self._ready.close()

    async def wait_empty(self) -> None:
        """Return when nobody is connected any more."""
        while self._visitors:
            self._empty = trio.Event()
            await self._empty.wait()

    async def cut_all(self) -> None:
        """End all connections now, in turns."""
        for visitor in list(self._visitors.values()):
            self._drop(visitor)
        await self.wait_empty()

    def _drop(self, visitor: Visitor) -> None:
        """End a connection soon: whoever asks for it may be in the middle of a loop over sessions."""
        if not visitor.leaving:
            visitor.leaving = True
            self._do_later(visitor)

    def _do_later(self, visitor: Visitor) -> None:
        self._to_do.append(visitor)
        self._something_to_do.set()

    async def _work_for_ever(self) -> None:
        while True:
            await self._something_to_do.wait()
            async with self._turns.take():
                while self._to_do and not self._turns.pace.spent:
                    self._visit(self._to_do.popleft())
            if not self._to_do:
                self._something_to_do = trio.Event()

    async def _read_for_ever(self) -> None:
        while True:
            if not self._to_read:
                await self._ready.wait()
            async with self._turns.take():
                while not self._turns.pace.spent and self._next_to_read():
                    visitor = self._visitors.get(self._to_read.popleft())
                    if visitor is not None:
                        self._visit(visitor)

    def _next_to_read(self) -> bool:
        if not self._to_read:
            self._to_read.extend(self._ready.take(EVENTS))
        return bool(self._to_read)

    def _visit(self, visitor: Visitor) -> None:
        """Do what there is to do for one connection; what goes wrong is its own affair."""
        try:
            if visitor.leaving:
                self._end(visitor)
            elif visitor.unread:
                self._take_unread(visitor)
            else:
                self._read(visitor)
        except OSError:
            self._end(visitor)
        except Exception:
            log.exception("serving a subscriber failed")
            self._end(visitor)

    def _take_unread(self, visitor: Visitor) -> None:
        self._hear(visitor, visitor.unread[:RECEIVE_BYTES])
        rest = visitor.unread[RECEIVE_BYTES:]
        if rest and not visitor.discards:
            visitor.unread = rest
            self._do_later(visitor)
        else:
            self._ready.watch(visitor.socket.fileno())
            visitor.unread = b""  # only now: `_end` takes who has none for watched

    def _read(self, visitor: Visitor) -> None:
        try:
            data = visitor.socket.recv(DISCARD_BYTES if visitor.discards else RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._end(visitor)
        elif not visitor.discards:
            self._hear(visitor, data)

    def _hear(self, visitor: Visitor, data: bytes) -> None:
        session = visitor.session
        if visitor.inbound is None:
            if session.awaiting_pong_since is not None and is_bare_pong(data):
                session.heard()
                return
            visitor.inbound = Inbound(trio.current_time(), deflate=session.variant is Variant.DEFLATE)
        session.heard()
        if self._react(session, visitor.inbound.feed(data, trio.current_time())):
            # Closing with unread bytes would make the kernel reset the connection and could destroy the close frame
            # on its way. The hub ends the wait when the closing is done, at the latest at its deadline.
            visitor.discards = True
            if session.closed:
                session.drop()

    def _react(self, session: Session, events: list[Heard]) -> bool:
        """Do what is asked for; true when nothing more is to be read."""
        for event in events:
            if isinstance(event, PingReceived):
                session.queue_pong(event.payload)
            elif isinstance(event, CloseReceived):
                session.close_received = True
                self._hub.close(session, event.code, "", trio.current_time())
                return True
            elif isinstance(event, Violation):
                self._hub.close(session, event.code, event.reason, trio.current_time())
                return True
        self._hub.write_control(session)
        return False

    def _end(self, visitor: Visitor) -> None:
        """Close a connection; what was not sent is not sent any more."""
        session, sock = visitor.session, visitor.socket
        fd = sock.fileno()
        if fd == -1:
            return  # it was in both queues
        del self._visitors[fd]
        if not visitor.unread:
            self._ready.forget(fd)
        self._hub.detach(session)
        session.drop = _ended_already
        if not session.close_sent:
            abandon(sock)
        if session.has_writer:  # it may wait for room
            trio.lowlevel.notify_closing(sock)
        sock.close()
        visitor.ended()
        if not self._visitors:
            self._empty.set()


def _ended_already() -> None:
    pass
