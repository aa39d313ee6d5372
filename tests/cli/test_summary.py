from typing import Any

from appliance.cli.summary import lines


def summary(plane: str, numbers: dict[str, Any]) -> list[tuple[str, str]]:
    return list(lines({"planes": {plane: numbers}, "flashlog": None}))


def test_replication_says_who_votes_what_is_held_and_where_each_peer_stands() -> None:
    report = {
        "host_id": "a",
        "role": "voter",
        "recovering": True,
        "quorum": "2 of 3",
        "held": 3,
        "held_s": 1.5,
        "commit_ms": {"p50": 1.25, "p99": 9.0},
        "contradictions": 0,
        "peers": {
            "b": {"following": True, "behind": 0, "outages": 1, "failures": 31},
            "c": {"following": False, "behind": None, "outages": 2, "failures": 7, "last_error": "no connection"},
        },
        "followers": {"b": {"votes": False, "acked": 12, "behind": 2, "refused": 0}},
    }
    assert summary("replication", report) == [
        (
            "replication",
            (
                "a, voter, quorum 2 of 3, recovering: it does not vote; "
                "3 flashblocks held for 1.5 s, 0 contradictions; commits take 1.25 ms, p99 9"
            ),
        ),
        ("peer b", "followed; 0 behind, 1 outages"),
        ("peer c", "not connected: no connection; - behind, 2 outages"),
        ("follower b", "acknowledged up to position 12, 2 behind, 0 refused; it has no vote"),
    ]


def test_what_is_shown_without_a_majority_is_not_said_to_be_held() -> None:
    ((_, text),) = summary("replication", {"held": 2, "shown_uncommitted": 46, "held_s": 9.0})
    assert "; 46 shown without a majority, 2 flashblocks held for 9 s, " in text


def test_the_load_balancer_says_what_waits_and_how_each_node_is() -> None:
    node = {
        "uri": "http://n:1",
        "source": "file",
        "workers": 8,
        "in_flight": 3,
        "explain": {"state": "ejected", "reason": "3 failures in a row"},
    }
    report = {"queue": {"fast_track": 1, "high": 0, "low": 4000}, "in_flight": 3, "nodes": [node]}
    assert summary("lb", report) == [
        ("lb", "3 in flight; waiting: 1 fast-track, 0 high, 4,000 low"),
        ("node http://n:1", "ejected, 3 failures in a row; 3 of 8 workers, from the file"),
    ]


def test_a_node_that_was_added_is_said_to_be_so() -> None:
    node = {"uri": "http://n:1", "source": "added", "workers": 8, "in_flight": 0, "explain": {"state": "healthy"}}
    (_, (_, text)) = summary("lb", {"nodes": [node]})
    assert text.endswith("0 of 8 workers, added by command")


def test_a_provider_group_says_who_is_active_and_how_each_endpoint_is() -> None:
    endpoint = {"name": "main", "state": "unhealthy", "head": 7, "explain": "its head is 9 blocks behind"}
    group = {"active": "backup", "switches": 2, "clients": 1, "transactions": {"dropped": 0}, "endpoints": [endpoint]}
    assert summary("providers", {"groups": {"l1": group}}) == [
        ("L1 l1", "backup is active; 2 switches, 1 websockets, 0 transactions dropped"),
        ("  main", "unhealthy, head 7: its head is 9 blocks behind"),
    ]


def test_what_a_report_does_not_have_is_a_dash() -> None:
    for plane in ("replication", "lb", "providers"):
        for _, text in summary(plane, {"state": "restarting"}):
            assert "-" in text
