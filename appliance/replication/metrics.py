"""What Prometheus sees of replication."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LEARNERS: Final = "learners"
"""The label of all followers that are not configured here: learners come and go."""

_LATENCY: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_PEER: Final = ("peer",)


@dataclass(frozen=True)
class ReplicationMetrics:
    """One set per host, on an injected registry. The label `peer` is a configured host_id, or `LEARNERS`."""

    commit_seconds: Histogram
    held_entries: Gauge
    held_seconds: Gauge
    committed: Gauge
    lag: Gauge
    following: Gauge
    followers: Gauge
    follower_lag: Gauge
    acked: Counter
    refused: Counter
    refused_by: Counter
    received: Counter
    reconnects: Counter
    replaced: Counter
    closed: Counter
    published_uncommitted: Counter
    missed: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "ReplicationMetrics":
        """Register all of them; a second set on one registry is an error of prometheus_client."""

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"replication_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"replication_{name}", text, labels, registry=registry)

        return cls(
            commit_seconds=Histogram(
                "replication_commit_seconds",
                "From being on this host's disk to being committed",
                buckets=_LATENCY,
                registry=registry,
            ),
            held_entries=gauge("held_entries", "Flashblocks on this host's disk that are not committed"),
            held_seconds=gauge("held_seconds", "How long the oldest of them has been waiting"),
            committed=gauge("committed_position", "Last committed position of this host's log"),
            lag=gauge("lag_entries", "Positions of a peer's log that are not on this host's disk yet", _PEER),
            following=gauge("following", "1 while this host follows the peer's log", _PEER),
            followers=gauge("followers", "Connections of this peer that follow this host's log", _PEER),
            follower_lag=gauge(
                "follower_lag_entries",
                "Positions of this log that a peer has not acknowledged since this start, also while it is away",
                _PEER,
            ),
            acked=counter("acked_entries", "Flashblocks that a peer has acknowledged", _PEER),
            refused=counter("refused_entries", "Second bodies of a peer that this host has refused", _PEER),
            refused_by=counter("refused_by_peer_entries", "Flashblocks of this host that a peer has refused", _PEER),
            received=counter("received_entries", "Flashblocks of a peer that were new here", _PEER),
            reconnects=counter("link_failures", "Times that following a peer ended or did not begin", _PEER),
            replaced=counter("replaced_entries", "Flashblocks here that gave way to a committed branch"),
            closed=counter("closed_payloads", "Payloads that were ended because no body can have a majority"),
            published_uncommitted=counter("published_uncommitted_entries", "Flashblocks shown without a majority"),
            missed=counter("missed_positions", "Positions that a peer's retention removed before they came", _PEER),
        )
