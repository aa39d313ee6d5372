"""The parts of the plane that need no hosts: settings, bell, latency."""

import trio
from prometheus_client import CollectorRegistry

from appliance.config.model import ReplicationConfig, ReplicationPeerConfig
from appliance.replication.bell import Bell
from appliance.replication.latency import KEPT, Latency
from appliance.replication.membership import Membership
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.security import TlsFiles
from appliance.replication.settings import Peer, ReplicationSettings, replication_settings


def settings(voters: int, *, follow_only: bool = False, min_acks: int | None = None) -> ReplicationSettings:
    peers = tuple(Peer(f"p{number}", "ws://h") for number in range(voters - (not follow_only)))
    return ReplicationSettings("own", b"", peers, min_acks=min_acks, follow_only=follow_only)


def test_a_quorum_is_a_majority_of_the_voters() -> None:
    assert [settings(voters).quorum for voters in (2, 3, 4, 5, 6)] == [2, 2, 3, 3, 4]
    assert [settings(voters, follow_only=True).quorum for voters in (2, 3, 4, 5)] == [2, 2, 3, 3]


def test_learners_are_no_voters() -> None:
    assert settings(3).voters == {"own", "p0", "p1"}
    assert settings(3, follow_only=True).voters == {"p0", "p1", "p2"}


def test_the_secret_is_in_no_repr() -> None:
    secret = b"s" * 32
    own = ReplicationSettings("own", secret, ())
    membership = Membership("own", "log", secret, frozenset(), 1)
    assert repr(secret) not in repr(own) + repr(membership)


def test_min_acks_counts_the_others() -> None:
    assert [settings(3, min_acks=acks).quorum for acks in (0, 1, 2)] == [1, 2, 3]
    assert settings(3, min_acks=0).quorum < settings(3).majority


def test_the_section_becomes_the_settings() -> None:
    config = ReplicationConfig(
        host_id="a",
        secret_file="unused",
        timeout_ms=250,
        on_timeout="publish",
        follow_only=True,
        tls_cert_file="c.pem",
        tls_key_file="k.pem",
        tls_ca_file="ca.pem",
        peers=(ReplicationPeerConfig(host_id="b", url="wss://b:1"),),
    )
    assert replication_settings(config, b"s" * 32) == ReplicationSettings(
        "a",
        b"s" * 32,
        (Peer("b", "wss://b:1"),),
        timeout_s=0.25,
        publish_on_timeout=True,
        follow_only=True,
        tls=TlsFiles("c.pem", "k.pem", "ca.pem"),
    )
    plain = ReplicationConfig(host_id="a", secret_file="unused")
    assert replication_settings(plain, b"").tls is None


async def test_no_ring_is_missed_by_who_takes_it_before_it_looks() -> None:
    bell = Bell()
    ring = bell.next_ring()
    bell.ring()
    with trio.fail_after(30):
        await ring.wait()
    assert not bell.next_ring().is_set()


async def test_a_ring_wakes_all_who_wait() -> None:
    bell = Bell()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bell.next_ring().wait)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()


def test_the_latency_of_the_last_commits() -> None:
    latency = Latency()
    assert latency.statistics() == {"p50": None, "p99": None, "max": None}
    latency.add(number / 1000 for number in range(1, 101))
    assert latency.statistics() == {"p50": 51.0, "p99": 100.0, "max": 100.0}
    latency.add([0.001] * KEPT)
    assert latency.statistics() == {"p50": 1.0, "p99": 1.0, "max": 1.0}


def test_metrics_have_their_names_and_labels() -> None:
    registry = CollectorRegistry()
    metrics = ReplicationMetrics.create(registry)
    metrics.acked.labels("b").inc(2)
    metrics.commit_seconds.observe(0.004)
    assert registry.get_sample_value("replication_acked_entries_total", {"peer": "b"}) == 2
    assert registry.get_sample_value("replication_commit_seconds_bucket", {"le": "0.005"}) == 1
