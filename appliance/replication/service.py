"""The replication plane: this host's log on its peers, and theirs on this host.

    peers' logs -> Following -> log -> VotingHost -> commit point -> fan-out
                                 |         ^ acknowledgements, what is on disk
                                 `-> Serving -> peers, learners

A crash restarts it alone. What the log holds is the truth, so a run begins by counting what is not committed.
"""

import socket
import ssl

import trio

from appliance.domain.health import HealthFact
from appliance.net.duplex import Duplex
from appliance.net.duplex_server import DuplexServer
from appliance.replication.following import LIMITS, Following, dialer
from appliance.replication.host import VotingHost
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.ports import ReplicatedLog
from appliance.replication.security import authorizer
from appliance.replication.serving import Serving
from appliance.replication.settings import Peer, ReplicationSettings
from appliance.replication.source_link import Identity
from appliance.telemetry.logging import get_logger

log = get_logger("replication")

LAST_COMMIT_S = 1.0
"""At a stop: for the acknowledgements of what was appended last. What stays open is counted after the next start."""


class Replication:
    """May be run again after it failed. Raises ConfigError, when it is made, for TLS files that are no use."""

    def __init__(self, settings: ReplicationSettings, flashlog: ReplicatedLog, metrics: ReplicationMetrics) -> None:
        self._settings = settings
        self._log = flashlog
        self._metrics = metrics
        tls = settings.tls
        self._server_tls: ssl.SSLContext | None = tls.for_listening() if tls else None
        self._client_tls: ssl.SSLContext | None = tls.for_connecting() if tls else None
        self._host: VotingHost | None = None
        self._followings: list[Following] = []
        self._servings: dict[str, Serving] = {}
        self._acked: dict[str, int] = {}
        self._server: DuplexServer | None = None
        flashlog.keep_for(self.awaited)

    def __repr__(self) -> str:
        return f"<Replication {self._host or self._settings.host_id}>"

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Replicate until ``stopping`` is set and what was appended is committed, within a second."""
        self._warn()
        host = self._host = await self._create_host()
        self._followings = [self._create_following(host, peer) for peer in self._settings.peers]
        self._servings = {}
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            server = self._server = self._create_server(host, listener)
            await nursery.start(server.run)
            for following in self._followings:
                nursery.start_soon(following.run)
            task_status.started()
            await stopping.wait()
            await self._commit_the_last(host)
            nursery.cancel_scope.cancel()

    def _warn(self) -> None:
        settings = self._settings
        if settings.quorum < settings.majority:
            log.warning(
                "min_acks is less than a majority: two hosts may show two bodies for one flashblock",
                min_acks=settings.min_acks,
                majority=settings.majority,
            )

    async def _create_host(self) -> VotingHost:
        settings = self._settings
        identity = Identity(settings.host_id, self._log.log_id, settings.secret, settings.voters, settings.follow_only)
        recovering = not settings.follow_only and await self._log.recovering()
        return VotingHost(identity, settings.rules, self._log, self._metrics, recovering=recovering)

    def _create_following(self, host: VotingHost, peer: Peer) -> Following:
        return Following(host, peer.host_id, dialer(peer.url, self._settings.secret, self._client_tls))

    def _create_server(self, host: VotingHost, listener: socket.socket) -> DuplexServer:
        async def serve(duplex: Duplex) -> None:
            serving = Serving(host, duplex)
            try:
                await serving.run(self._take_place)
            finally:
                self._leave_place(serving)

        judge = authorizer(self._settings.secret)
        return DuplexServer(serve, listener, judge, ssl_context=self._server_tls, limits=LIMITS)

    def _take_place(self, serving: Serving) -> None:
        """A follower that comes back has left its old connection behind, whatever TCP says."""
        old = self._servings.get(serving.link.peer)
        if old is not None:
            old.end()
        self._servings[serving.link.peer] = serving

    def _leave_place(self, serving: Serving) -> None:
        if self._servings.get(serving.link.peer) is serving:
            del self._servings[serving.link.peer]
            if serving.link.peer in self._settings.voters:
                self._acked[serving.link.peer] = serving.link.acked

    async def _commit_the_last(self, host: VotingHost) -> None:
        with trio.move_on_after(LAST_COMMIT_S):
            while host.votes.open:  # noqa: ASYNC110 a stop happens once
                await trio.sleep(0.01)

    def awaited(self) -> int | None:
        """What is after this position is wanted: by the slowest peer, or by the votes."""
        others = self._settings.voters - {self._settings.host_id}
        acked = [self._acked_by(peer) for peer in (others if not self._settings.follow_only else frozenset())]
        learners = [each.link.acked for peer, each in self._servings.items() if peer not in others]
        return min([self._log.committed, *acked, *learners])

    def _acked_by(self, peer: str) -> int:
        serving = self._servings.get(peer)
        return serving.link.acked if serving else self._acked.get(peer, 0)

    def facts(self) -> list[HealthFact]:
        """Whether the stream is held for want of acknowledgements."""
        host = self._host
        if host is None or not host.is_held:
            return []
        waiting = f"{host.votes.open} flashblocks wait for a majority, for {host.held_s():.1f} s"
        shown = "shown all the same" if self._settings.publish_on_timeout else "the stream is held, blocks go on"
        return [HealthFact("replication", healthy=False, reason=f"{waiting}: {shown}")]

    def statistics(self) -> dict[str, object]:
        """For the status: the votes, and each peer in both directions."""
        host = self._host
        return {
            "host_id": self._settings.host_id,
            "role": "learner" if self._settings.follow_only else "voter",
            "recovering": bool(host and host.recovery.recovering),
            "quorum": f"{self._settings.quorum} of {len(self._settings.voters)}",
            "committed": self._log.committed,
            "held": host.votes.open if host else None,
            "held_s": round(host.held_s(), 3) if host else None,
            "commit_ms": host.latency.statistics() if host else None,
            "contradictions": host.contradictions if host else 0,
            "peers": {each.peer: each.statistics() for each in self._followings},
            "followers": {peer: each.statistics() for peer, each in self._servings.items()},
            "connections": self._server.connections if self._server else 0,
            "refused_connections": self._server.refused if self._server else 0,
        }
