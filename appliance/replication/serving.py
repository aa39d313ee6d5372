"""Somebody follows this host's log."""

from typing import Final

import trio

from appliance.domain.payloads import PayloadId, PayloadState
from appliance.net.duplex import Duplex
from appliance.replication.connection import Connection
from appliance.replication.metrics import LEARNERS
from appliance.replication.runner import Runner
from appliance.replication.source_link import SourceLink
from appliance.telemetry.logging import get_logger
from appliance.telemetry.seldom import Seldom
from appliance.wire.replication import AnyMessage, Refusal

log = get_logger("replication")

TOLD_STATES: Final = 64


class Serving(Connection):
    """One connection of a follower, or of somebody who would be one. ``seldom`` is shared by all of them."""

    def __init__(self, runner: Runner, duplex: Duplex, seldom: Seldom) -> None:
        super().__init__(runner, duplex)
        self._seldom = seldom
        self._is_refused = False
        self._counted = (0, 0)
        self._is_counted = False
        self.peer = ""

    @property
    def link(self) -> SourceLink | None:
        """Where it stands, once it was welcomed."""
        return self._runner.core.serving(self.name)

    @property
    def label(self) -> str:
        """The follower's name where it is configured, else `LEARNERS`."""
        return self.peer if self.peer in self._runner.membership.voters else LEARNERS

    async def run(self) -> None:
        """Serve until the connection ends."""
        runner = self._runner
        with runner.flashlog.watch_states(self._tell_change):
            for settled in await runner.flashlog.settled(TOLD_STATES):
                self.tell_state(*settled)
            runner.core.pruned(await runner.flashlog.pruned_through())
            try:
                await self.converse(lambda now: runner.core.source_opened(self.name, now))
            finally:
                if self.peer:
                    runner.metrics.followers.labels(self.label).dec()
        self._say_gone()

    def send(self, message: AnyMessage) -> None:
        """As every connection does; and it is remembered when this host wants none of it."""
        self._note_refusal(message)
        super().send(message)

    def _hear(self, message: AnyMessage, now: float) -> None:
        self._note_refusal(message)
        super()._hear(message, now)

    def _note_refusal(self, message: AnyMessage) -> None:
        self._is_refused = self._is_refused or isinstance(message, Refusal)

    def _say_gone(self) -> None:
        if self._is_refused:
            attempts = self._seldom.note((self.address, self.reason), trio.current_time())
            if attempts:
                log.warning("a link is refused", address=self.address, reason=self.reason, attempts=attempts)
        elif self.peer:
            say = log.warning if self.failed else log.info
            say("a follower has gone", peer=self.peer, address=self.address, reason=self.reason)
        else:  # a peer at its start, which opens its links anew once it has its vote
            log.debug("a connection ended before it was served", address=self.address, reason=self.reason)

    def _tell_change(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None) -> None:
        if not self._runner.is_hearsay(payload_id, state):
            self.tell_state(payload_id, state, block_hash)

    def measure(self) -> None:
        """Count what was acknowledged since."""
        link = self.link
        if link is None:
            return
        metrics = self._runner.metrics
        if not self.peer:
            self.peer = link.peer
            metrics.followers.labels(self.label).inc()
            log.info("serving a follower", peer=self.peer, address=self.address, after=link.sent)
        held, refused = self._counted
        self._counted = link.held, link.refused
        metrics.acked.labels(self.label).inc(link.held - held)
        metrics.refused_by.labels(self.label).inc(link.refused - refused)

    def _behind(self, link: SourceLink) -> int:
        return max(0, self._runner.flashlog.appended - link.acked)

    def statistics(self) -> dict[str, object]:
        """Where the follower stands in this log."""
        link = self.link
        if link is None:
            return {}
        return {
            "votes": link.votes,
            "sent": link.sent,
            "acked": link.acked,
            "behind": self._behind(link),
            "in_flight": link.in_flight,
            "refused": link.refused,
        }
