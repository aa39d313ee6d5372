"""All subscribers and where they stand: who is at the head, who catches up, who has to go. Pure.

The promise (no duplicate, no gap, log order) rests on one rule. `Hub.mark` is the last entry whose
broadcast has *begun*. A session at the head has either the mark from before that broadcast, then the
broadcast's `Round` still has to serve it, or the new one. A session that catches up never goes beyond
`Hub.mark`, and rejoins in the same step in which it is found standing there. A Round serves a session only
if it is at the head and `is` still at the mark from before; so whatever happens between two slices of a
Round, a session gets each entry from exactly one of the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.fanout import frames
from appliance.fanout.filters import FilterIndex
from appliance.fanout.frames import Variant
from appliance.fanout.framesets import FrameSet
from appliance.fanout.heads import Heads
from appliance.fanout.marks import Mark, describe
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.notices import Board
from appliance.fanout.session import Due, Session, Stage
from appliance.fanout.waiting import Waiting

# RFC 6455 7.4.1 and the IANA registry.
GOING_AWAY = 1001
NO_LONGER_ADMITTED = 1008
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class HubSettings:
    """``max_lag`` in entries; times in seconds."""

    max_lag: int
    ping_interval_s: float
    pong_timeout_s: float
    close_timeout_s: float


class Hub:
    """``on_behind`` is told of a session that needs a writer task; the bool says that its socket is full."""

    def __init__(
        self,
        mark: Mark,
        settings: HubSettings,
        metrics: FanoutMetrics,
        on_behind: Callable[[Session, bool], None],
    ) -> None:
        self.mark = mark
        self.sessions: set[Session] = set()
        self.metrics = metrics
        self._settings = settings
        self._on_behind = on_behind
        self.heads = Heads()
        self.filters = FilterIndex()
        self.board = Board()
        self.listeners: set[Session] = set()  # who asked for control messages
        self._waiting = Waiting()
        self._catching_up: set[Session] = set()

    def attach(self, session: Session) -> None:
        """Take a new subscriber in. Its backlog does not count as lag, however far back it resumes."""
        self.sessions.add(session)
        if session.filter is not None:
            self.filters.add(session.filter)
        self.metrics.new_connections.add()
        self.metrics.active_connections.add()
        session.allowed_lag = self._settings.max_lag + self._lag(session)
        self._catching_up.add(session)
        if not self.rejoin(session):
            self._need_writer(session, full=False)
        if session.notices is not None:
            self.listeners.add(session)
            self.write_control(session)

    def detach(self, session: Session) -> None:
        """The connection has ended. Its writer task, if there is one, finds it GONE."""
        if session.stage is Stage.GONE:
            return
        self._leave(session)
        session.stage = Stage.GONE
        self.sessions.discard(session)
        self.listeners.discard(session)
        if session.filter is not None:
            self.filters.remove(session.filter)
        self.metrics.closed_connections.add()
        self.metrics.active_connections.add(-1)

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits for an entry that is new to it; then batches of one spare it a writer task."""
        return bool(self._waiting)

    def begin(self, batch: Sequence[FrameSet]) -> dict[Variant, list[Session]]:
        """Start the broadcast of the next entries: who is at the head now and wants everything, by variant.

        The caller serves each group by a `Round`, and then those of `heads.filtered`, before it begins another
        broadcast.
        """
        before, self.mark = self.mark, batch[-1].mark
        for session in self._waiting.begin(batch, before):
            if session.mark is before:
                self._enter_head(session)
            else:
                # The batch is one frame to the round, and this session wants only its end.
                self._fall_behind(session, full=False)
        return self.heads.everything()

    def rejoin(self, session: Session) -> bool:
        """End a session's catching up, if it has nothing half sent and is as far as the hub.

        It may even be further: the log can have entries whose broadcast has not begun. Then, or when it
        passes over entries that it saw elsewhere, it waits for the first one that is new to it.
        """
        if session.stage is not Stage.CATCHING_UP or not session.at_boundary:
            return False
        if session.mark.position < self.mark.position:
            return False
        self._catching_up.discard(session)
        session.allowed_lag = self._settings.max_lag
        session.has_writer = False
        if session.notices is not None:
            session.notices.caught_up()
        if session.skip is None and session.mark.position == self.mark.position:
            session.mark = self.mark
            self._enter_head(session)
        else:
            session.stage = Stage.WAITING
            self._waiting.add(session, self.mark)
        return True

    def _enter_head(self, session: Session) -> None:
        session.stage = Stage.HEAD
        self.heads.add(session)

    def fell_behind(self, session: Session, frame: bytes, sent: int, mark: Mark) -> None:
        """A round's send was short (the rest becomes the tail) or would have blocked (nothing was sent)."""
        session.accepted(frame, sent, mark)
        self._leave(session)
        self._fall_behind(session, full=True)

    def _fall_behind(self, session: Session, *, full: bool) -> None:
        session.stage = Stage.CATCHING_UP
        self._catching_up.add(session)
        self.metrics.catch_ups.add()
        self._need_writer(session, full=full)

    def lost(self, session: Session) -> None:
        """A send failed: the connection is broken."""
        self.metrics.failed_messages.add()
        self._drop(session)

    def _drop(self, session: Session) -> None:
        self._leave(session)
        session.stage = Stage.CLOSING
        session.drop()

    def write_control(self, session: Session) -> None:
        """Send control frames that were queued, unless a writer task does it."""
        if session.has_writer or session.stage is Stage.GONE:
            return
        self._waiting.note_mark(session)
        try:
            done = session.flush()
        except OSError:
            self.lost(session)
            return
        if done:
            self.end_if_closed(session)
        elif session.stage is Stage.CLOSING:
            self._need_writer(session, full=True)
        else:
            self._leave(session)
            self._fall_behind(session, full=True)

    def end_if_closed(self, session: Session) -> None:
        """End the connection when both sides have said goodbye."""
        if session.closed:
            session.drop()

    def close(self, session: Session, code: int | None, reason: str, now: float) -> bool:
        """Start the closing handshake; the reason ends with the place to resume from. False where it had begun."""
        if session.stage in (Stage.CLOSING, Stage.GONE):
            return False
        self._leave(session)
        session.queue_close(code, _with_place(reason, session.resume_from), now + self._settings.close_timeout_s)
        self.write_control(session)
        return True

    def go_away(self, session: Session, now: float) -> None:
        """Close a session because this host stops."""
        self.close(session, GOING_AWAY, "going away", now)

    def note_lags(self) -> None:
        """Take a picture of who is how far behind: half a millisecond for 5,000 who catch up."""
        position = self.mark.position
        self.metrics.lag.note([position - session.mark.position for session in self._catching_up], len(self.sessions))

    def half_behind(self) -> list[Session]:
        """Those who want control messages and lag more than half of what they may; see `warn_lagging`."""
        position, listeners = self.mark.position, self.listeners
        return [
            session
            for session in (self._catching_up if listeners else ())
            if 2 * (position - session.mark.position) > session.allowed_lag and session in listeners
        ]

    def warn_lagging(self, session: Session) -> None:
        """Tell one that still catches up that it lags, unless it was told."""
        if session in self._catching_up and session.notices is not None:
            session.notices.lag(self._lag(session), session.allowed_lag)

    def beyond_bound(self) -> list[Session]:
        """Those that lag more than they may now; see `end_if_beyond`. One comparison for each that catches up."""
        position = self.mark.position
        return [session for session in self._catching_up if position - session.mark.position > session.allowed_lag]

    def end_if_beyond(self, session: Session, now: float) -> None:
        """Close a session that still lags more than it may."""
        if session in self._catching_up and self._lag(session) > session.allowed_lag:
            self.lagged(session, now)

    def lagged(self, session: Session, now: float) -> None:
        """Close a session that is further behind than the bound or than what the log holds."""
        self.metrics.lagged_connections.add()
        self.close(session, TRY_AGAIN_LATER, "lagged", now)

    def sweep(self, session: Session, now: float) -> None:
        """Do what time demands of one session."""
        due = session.due(now, self._settings.pong_timeout_s)
        if due is Due.PING:
            session.queue_ping(now, self._settings.ping_interval_s)
            self.write_control(session)
        elif due is Due.PONG_OVERDUE:
            self.metrics.client_pong_disconnects.add()
            self._drop(session)
        elif due is Due.CLOSE_OVERDUE:
            session.drop()
        session.plan(self._settings.pong_timeout_s)

    def _leave(self, session: Session) -> None:
        if session.stage is Stage.HEAD:
            self.heads.remove(session)
        self._waiting.discard(session)
        self._catching_up.discard(session)

    def _need_writer(self, session: Session, *, full: bool) -> None:
        if not session.has_writer:
            session.has_writer = True
            self._on_behind(session, full)

    def _lag(self, session: Session) -> int:
        return self.mark.position - session.mark.position

    def statistics(self) -> dict[str, object]:
        """Where the subscribers stand, and how far behind the furthest one is, in entries."""
        return {
            "position": self.mark.position,
            "resume_from": describe(self.mark.key, self.mark.payload_id),
            "subscribers": len(self.sessions),
            "at_head": self.heads.counts(),
            "filters": len(self.filters),
            "waiting": len(self._waiting),
            "catching_up": len(self._catching_up),
            "max_lag": max(map(self._lag, self._catching_up), default=0),
            "lag": self.metrics.lag.statistics(),
        }


def _with_place(reason: str, place: str) -> str:
    """A close frame takes 123 bytes: a long reason is cut, the place never."""
    room = frames.MAX_REASON_BYTES - len(place) - 1
    return f"{reason.encode()[:room].decode(errors='ignore')} {place}".strip()
