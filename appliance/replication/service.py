"""The replication plane: this host's log on its peers, and theirs on this host.

    peers' logs -> Following -> Core -> log -> Core -> commit point -> fan-out
                                          `--> Core -> Serving -> peers, learners

The core (`core`) decides, the runner carries out; `DESIGN.md` says why.

A crash restarts it alone. What the log holds is the truth, so a run begins by counting what is not committed.
"""

import socket
import ssl
from functools import partial

import trio

from appliance.domain.health import HealthFact
from appliance.net.duplex import Duplex
from appliance.net.duplex_server import DuplexServer
from appliance.replication.following import LIMITS, Following, dialer
from appliance.replication.held import Held, HeldWatch
from appliance.replication.membership import Membership
from appliance.replication.metrics import LEARNERS, ReplicationMetrics
from appliance.replication.ports import ReplicatedLog
from appliance.replication.reach import Reach
from appliance.replication.runner import Runner
from appliance.replication.security import authorizer
from appliance.replication.serving import Serving
from appliance.replication.settings import Peer, ReplicationSettings
from appliance.telemetry.logging import get_logger
from appliance.telemetry.seldom import Seldom

log = get_logger("replication")

LOOK_S = 0.2
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
        self._runner: Runner | None = None
        self._followings: list[Following] = []
        self._acked: dict[str, int] = {}
        self._server: DuplexServer | None = None
        self._reach = Reach(settings)
        flashlog.keep_for(self.awaited)
        self._measure_lag_when_asked()

    def __repr__(self) -> str:
        return f"<Replication {self._runner or self._settings.host_id}>"

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Replicate until ``stopping`` is set and what was appended is committed, within a second."""
        self._warn()
        with listener:
            runner = self._runner = await self._create_runner()
            self._followings = [self._create_following(runner, peer) for peer in self._settings.peers]
            self._reach = Reach(self._settings)
            # Peers can connect. A flashblock that is damaged may keep this plane from running, not the process.
            task_status.started()
            await self._replicate(runner, listener, stopping)

    async def _replicate(self, runner: Runner, listener: socket.socket, stopping: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(runner.run)
            server = self._server = self._create_server(runner, listener)
            await nursery.start(server.run)
            for following in self._followings:
                nursery.start_soon(following.run)
            nursery.start_soon(self._say_when_held, runner)
            nursery.start_soon(self._say_when_cut_off, runner)
            await stopping.wait()
            await self._commit_the_last(runner)
            nursery.cancel_scope.cancel()

    def _warn(self) -> None:
        settings = self._settings
        if settings.quorum < settings.majority:
            log.warning(
                "min_acks is less than a majority: two hosts may show two bodies for one flashblock",
                min_acks=settings.min_acks,
                majority=settings.majority,
            )

    async def _say_when_held(self, runner: Runner) -> None:
        """Nothing else in the log would tell why subscribers see nothing while blocks go on."""
        watch = HeldWatch(self._settings.timeout_s)
        while True:
            await trio.sleep(LOOK_S)
            said = watch.look(runner.held_s())
            if said is Held.BEGINS:
                following = [each.peer for each in self._followings if each.link is not None]
                log.error("no majority has the flashblocks yet", entries=runner.core.open, connected=following)
            elif said is Held.ENDS:
                log.info("a majority has the flashblocks again", longest_wait_s=round(watch.longest_s, 3))

    async def _say_when_cut_off(self, runner: Runner) -> None:
        """Where nothing is originated, nothing waits either: an edge without its voters is silent, and looks well."""
        watch = HeldWatch(self._settings.reach_grace_s)
        while True:
            links = [following.reached() for following in self._followings]
            votes = not (self._settings.follow_only or runner.core.recovering)
            self._reach.look(links, trio.current_time(), votes=votes)
            said = watch.look(self._reach.short_s)
            if said is Held.BEGINS:
                log.error("too few voters are followed", reason=self._reach.trouble)
            elif said is Held.ENDS:
                log.info("enough voters are followed again", after_s=round(watch.longest_s, 3))
            await trio.sleep(LOOK_S)

    async def _create_runner(self) -> Runner:
        settings = self._settings
        membership = Membership(
            settings.host_id,
            self._log.log_id,
            settings.secret,
            settings.voters,
            settings.quorum,
            settings.follow_only,
            publish_after_s=settings.timeout_s if settings.publish_on_timeout else None,
        )
        peers = tuple(peer.host_id for peer in settings.peers)
        return await Runner.create(membership, peers, self._log, self._metrics)

    def _create_following(self, runner: Runner, peer: Peer) -> Following:
        return Following(runner, peer.host_id, dialer(peer.url, self._settings.secret, self._client_tls))

    def _create_server(self, runner: Runner, listener: socket.socket) -> DuplexServer:
        seldom = Seldom()

        async def serve(duplex: Duplex) -> None:
            await Serving(runner, duplex, seldom).run()

        judge = authorizer(self._settings.secret)
        return DuplexServer(serve, listener, judge, ssl_context=self._server_tls, limits=LIMITS)

    @property
    def _servings(self) -> dict[str, Serving]:
        """Those who follow this host, by name."""
        found = self._runner.connections.values() if self._runner else ()
        return {each.link.peer: each for each in found if isinstance(each, Serving) and each.link is not None}

    async def _commit_the_last(self, runner: Runner) -> None:
        with trio.move_on_after(LAST_COMMIT_S):
            while runner.core.open:  # noqa: ASYNC110 a stop happens once
                await trio.sleep(0.01)

    def awaited(self) -> int | None:
        """What is after this position is wanted: by the slowest peer, or by the votes."""
        voters, learners = self._acknowledged()
        return min([self._log.committed, *voters.values(), *learners])

    def _acknowledged(self) -> tuple[dict[str, int], list[int]]:
        """How far each other voter has this log, also one that is away; and the learners that are connected."""
        others = self._settings.voters - {self._settings.host_id}
        now = {peer: each.link.acked for peer, each in self._servings.items() if each.link is not None}
        self._acked.update((peer, acked) for peer, acked in now.items() if peer in others)
        voters = {peer: self._acked.get(peer, 0) for peer in others} if not self._settings.follow_only else {}
        return voters, [acked for peer, acked in now.items() if peer not in others]

    def _measure_lag_when_asked(self) -> None:
        """A gauge that is set by a follower would stand still while the follower is away and the lag grows."""
        gauge = self._metrics.follower_lag
        if not self._settings.follow_only:
            for peer in self._settings.voters - {self._settings.host_id}:
                gauge.labels(peer).set_function(partial(self._voters_lag, peer))
        gauge.labels(LEARNERS).set_function(self._learners_lag)

    def _voters_lag(self, peer: str) -> int:
        return self._log.appended - self._acknowledged()[0][peer]

    def _learners_lag(self) -> int:
        """Of the slowest one that is connected."""
        return self._log.appended - min(self._acknowledged()[1], default=self._log.appended)

    @property
    def _is_held(self) -> bool:
        return self._runner is not None and self._runner.held_s() > self._settings.timeout_s

    def facts(self) -> list[HealthFact]:
        """What is wrong: the stream is held for want of acknowledgements, or too few voters are followed to see it."""
        return [*self._held_facts(), *self._reach_facts()]

    def _held_facts(self) -> list[HealthFact]:
        runner = self._runner
        if runner is None or not self._is_held:
            return []
        waiting = f"{runner.core.open} flashblocks wait for a majority, for {runner.held_s():.1f} s"
        shown = "shown all the same" if self._settings.publish_on_timeout else "the stream is held, blocks go on"
        return [HealthFact("replication", healthy=False, reason=f"{waiting}: {shown}")]

    def _reach_facts(self) -> list[HealthFact]:
        reason = self._reach.trouble
        return [HealthFact("peers", healthy=False, reason=reason)] if reason else []

    def statistics(self) -> dict[str, object]:
        """For the status: the votes, and each peer in both directions."""
        runner = self._runner
        return {
            "host_id": self._settings.host_id,
            "role": "learner" if self._settings.follow_only else "voter",
            "recovering": bool(runner and runner.core.recovering),
            "waits_for": list(runner.core.missing) if runner else [],
            "quorum": f"{self._settings.quorum} of {len(self._settings.voters)}",
            "committed": self._log.committed,
            "held": runner.core.open - runner.shown_uncommitted if runner else None,
            "shown_uncommitted": runner.shown_uncommitted if runner else 0,
            "held_s": round(runner.held_s(), 3) if runner else None,
            "commit_ms": runner.latency.statistics() if runner else None,
            "contradictions": runner.core.conflicts if runner else 0,
            "peers": {each.peer: each.statistics() for each in self._followings},
            "followers": {peer: each.statistics() for peer, each in self._servings.items()},
            "connections": self._server.connections if self._server else 0,
            "refused_connections": self._server.refused if self._server else 0,
        }
