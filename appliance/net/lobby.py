"""Clients that were accepted and have not finished asking for anything: one epoll for all, looked after in turns.

With a task for each, thousands that send their requests at the same moment are all woken in one pass of the event loop,
which then takes 0.1 ms for each of them. Here a few at a time are looked at, and between two turns everybody else
in the process runs. A client that sends its request byte by byte is looked at with every byte, in its turn.
"""

import contextlib
import itertools
import select
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import trio

from appliance.net.readiness import GONE

# As many as are accepted in a turn: a handshake takes 0.1 ms.
_AT_A_TIME: Final = 4
# Edge-triggered, because nothing is read here: half a request would be reported for ever.
_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


TakeTurn = Callable[[], AbstractAsyncContextManager[Callable[[], bool]]]
"""Wait for a turn; what it gives says whether that is over."""


def endless() -> AbstractAsyncContextManager[Callable[[], bool]]:
    """A turn of somebody who has nobody to take turns with."""
    return nullcontext(lambda: False)


@dataclass(frozen=True, slots=True)
class Guest:
    """One who waits; ``since`` when, in seconds of trio's clock."""

    socket: socket.socket
    peer: str
    since: float


class Lobby:
    """``look`` is told of a guest when something came, and whether it will send no more; true when it leaves us.

    Bounded by the server's limit of connections. The owner closes those who `leave` without being looked at.
    """

    def __init__(self, turn: TakeTurn, look: Callable[[Guest, bool], bool]) -> None:
        self._turn = turn
        self._look = look
        self._epoll = select.epoll()
        self._guests: dict[int, Guest] = {}  # by file descriptor, in the order of their coming

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, accepted: socket.socket, peer: str) -> None:
        """Let a client wait here. What has come already counts as coming now."""
        fd = accepted.fileno()
        self._epoll.register(fd, _EVENTS)
        self._guests[fd] = Guest(accepted, peer, trio.current_time())

    def leave(self, guest: Guest) -> None:
        """Look no more after a guest, whose socket is open."""
        self._epoll.unregister(guest.socket)
        del self._guests[guest.socket.fileno()]

    def leave_older(self, until: float, most: int) -> list[Guest]:
        """Some of those who came by then; they have left."""
        found = self._older(until, most)
        for guest in found:
            self.leave(guest)
        return found

    def expire(self, until: float, most: int) -> tuple[int, list[Guest]]:
        """How many of those who came by then were looked at, and whom nobody took: they have left.

        Where thousands wait for their turn, somebody's request may be here that nobody has looked at.
        """
        found = self._older(until, most)
        expired = [guest for guest in found if not self._visit(guest, gone=False)]
        for guest in expired:
            self.leave(guest)
        return len(found), expired

    def _older(self, until: float, most: int) -> list[Guest]:
        return [guest for guest in itertools.islice(self._guests.values(), most) if guest.since <= until]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            async with self._turn() as is_over:
                self.visit(is_over)

    def visit(self, is_over: Callable[[], bool]) -> None:
        """Look at some, at one at least, of whom something came."""
        for _ in range(_AT_A_TIME):
            told = self._epoll.poll(0, 1)
            if not told:
                break
            ((fd, events),) = told
            guest = self._guests.get(fd)
            if guest is not None:
                self._visit(guest, gone=events & GONE != 0)
            if is_over():
                break

    def _visit(self, guest: Guest, *, gone: bool) -> bool:
        fd = guest.socket.fileno()
        if not self._look(guest, gone):
            return False
        del self._guests[fd]
        with contextlib.suppress(OSError):  # it may be closed by now
            self._epoll.unregister(fd)
        return True

    def close(self) -> None:
        """Close whoever is left."""
        for guest in self._guests.values():
            guest.socket.close()
        self._guests.clear()
        self._epoll.close()
