"""From an admitted request to a subscriber: its session, its place in the hub, and what is given back at its end."""

import socket
from collections.abc import Callable
from functools import partial

import trio

from appliance.domain.positions import AfterBlock, Resume
from appliance.fanout.api_keys import Grant
from appliance.fanout.attendance import Attendance
from appliance.fanout.door import Admitted
from appliance.fanout.gate import Gate
from appliance.fanout.hub import NO_LONGER_ADMITTED, Hub
from appliance.fanout.limits import Ticket
from appliance.fanout.marks import Mark
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.notices import Notices
from appliance.fanout.session import Session
from appliance.fanout.subscriber import abandon, prepare_socket


class Reception:
    """``first_ping_s`` says in how many seconds a newcomer gets its first ping."""

    def __init__(
        self,
        hub: Hub,
        attendance: Attendance,
        gate: Gate,
        metrics: FanoutMetrics,
        *,
        stopping: trio.Event,
        first_ping_s: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._attendance = attendance
        self._gate = gate
        self._metrics = metrics
        self._stopping = stopping
        self._first_ping_s = first_ping_s
        self._keyed: dict[Session, tuple[Grant, Ticket]] = {}  # the sessions that came with a key

    def welcome(self, admitted: Admitted, sock: socket.socket, data: bytes, ended: Callable[[], None]) -> None:
        """One subscriber's life begins. Raises OSError, and whatever it raises, its place is free again."""
        if not admitted.ticket.claim():  # its answer took a minute, and its place went to somebody else
            abandon(sock)
            raise ConnectionAbortedError("its place went to somebody else")
        try:
            prepare_socket(sock)
            session = self._create_session(sock, admitted)
            self._attendance.admit(session, sock, data, partial(self._forget, session, admitted.ticket, ended))
        except BaseException:
            admitted.ticket.release()
            raise
        self._count(session, admitted)
        self.close_stranger(session)  # its key may have gone while it was let in
        if self._stopping.is_set():  # it came in while the others were being closed
            self._hub.go_away(session, trio.current_time())

    def close_stranger(self, session: Session) -> bool:
        """Close a subscriber whose key is none any more; whether that begins now. One that stays is its app's."""
        grant, _ = self._keyed.get(session, (None, None))
        if self._gate.keys.holds(grant):
            self._follow_key(session)
            return False
        why = "API key needed" if grant is None else "API key removed"
        return self._hub.close(session, NO_LONGER_ADMITTED, why, trio.current_time())

    def _follow_key(self, session: Session) -> None:
        """The app of its key may have another name now: it is counted for that."""
        if session not in self._keyed:
            return
        grant, ticket = self._keyed[session]
        now = self._gate.keys.owner(grant)
        if now.app != grant.app:
            ticket.move_to(now.app)
            self._metrics.subscribers_by_app.add(grant.app, -1)
            self._metrics.subscribers_by_app.add(now.app)
            self._keyed[session] = now, ticket

    def _count(self, session: Session, admitted: Admitted) -> None:
        """Remember with which key a session came, as long as it is there."""
        grant = admitted.grant
        if grant is not None:
            self._metrics.connections_by_app.add(grant.app)
            self._metrics.subscribers_by_app.add(grant.app)
            self._keyed[session] = grant, admitted.ticket

    def _forget(self, session: Session, ticket: Ticket, ended: Callable[[], None]) -> None:
        """Its connection has ended."""
        grant, _ = self._keyed.pop(session, (None, None))
        if grant is not None:
            self._metrics.subscribers_by_app.add(grant.app, -1)
        ticket.release()
        ended()

    def _create_session(self, sock: socket.socket, admitted: Admitted) -> Session:
        hub, located, request = self._hub, admitted.located, admitted.request
        session = Session(
            sock,
            request.variant,
            Mark(located.position, _key_of(request.resume)),
            located.skip_through,
            next_ping_at=trio.current_time() + self._first_ping_s(),
            drop=_not_admitted,
            wanted=request.filter,
        )
        if request.control:
            behind = max(0, hub.mark.position - located.position)
            session.notices = Notices(hub.board, request.resume, located.position, behind)
        return session


def _not_admitted() -> None:
    """The attendance puts its own in this place."""


def _key_of(resume: Resume) -> tuple[int, int] | None:
    """What the subscriber has seen already, as far as it said so."""
    if isinstance(resume, AfterBlock) and resume.index >= 0:
        return resume.block_number, resume.index
    return None
