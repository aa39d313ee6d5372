"""Hosts that replicate, on real sockets and real logs: what subscribers of each may see, and when."""

import contextlib
import sqlite3
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from appliance.domain.errors import LogError
from appliance.domain.payloads import PayloadState
from appliance.flashlog import FlashLog, RetentionLimits, open_flashlog
from appliance.flashlog.comparison import compare
from appliance.flashlog.maintenance import verify
from appliance.lifecycle import OnCrash, Plane
from appliance.net.listening import open_listener
from appliance.replication import uncommitted
from appliance.replication.core import Core
from appliance.replication.following import Following
from appliance.replication.membership import Membership
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.runner import Runner
from appliance.replication.security import TlsFiles
from appliance.replication.service import Replication
from appliance.replication.settings import Peer
from tests.flashlog.replicas import replicas
from tests.flashlog.support import flashblock, payload_id
from tests.net.upstreams import TLS_FILES
from tests.replication.hosts import Host, agreed, committed, make_hosts, running
from tests.support.eventually import eventually
from tests.support.proxy import proxied


def followed(host: Host, peer: str) -> dict[str, object]:
    peers = host.replication.statistics()["peers"]
    assert isinstance(peers, dict)
    found = peers[peer]
    assert isinstance(found, dict)
    return found


def followers(host: Host) -> dict[str, dict[str, object]]:
    found = host.replication.statistics()["followers"]
    assert isinstance(found, dict)
    return found


async def connected(*hosts: Host) -> None:
    """Every one of these follows every other one of its peers that is among them."""
    names = {host.name for host in hosts}
    for host in hosts:
        for peer in host.settings.peers:
            if peer.host_id in names:
                await eventually(lambda host=host, peer=peer: bool(followed(host, peer.host_id)["following"]))  # type: ignore[misc]


async def test_what_one_host_appends_is_shown_on_all_byte_for_byte(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(a, b, c):
        await a.append(1, 5, size=3000)
        await a.append(2, 3)
        await committed(a, b, c, entries=8)
        assert await a.shown() == await b.shown() == await c.shown()
        assert a.replication.facts() == []
    for host in (a, b, c):
        assert verify(host.folder).ok
        assert compare(a.folder, host.folder).same


async def test_nothing_is_shown_before_a_majority_has_it_and_the_origin_does_not_wait(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with trio.open_nursery() as nursery:
        async with running(a):
            with trio.fail_after(60):
                await a.append(1, 4)
            # The first of them may be overdue before the last one is counted.
            await eventually(
                lambda: any("4 flashblocks wait for a majority" in each.reason for each in a.replication.facts())
            )
            assert (a.log.head, a.log.appended) == (0, 4)
            (fact,) = a.replication.facts()
            assert not fact.healthy
            assert "the stream is held, blocks go on" in fact.reason
            await eventually(lambda: a.metric("held_entries") == 4)
            await nursery.start(b.run)
            await committed(a, b, entries=4)
            assert a.replication.facts() == []
            await b.stop()
        nursery.cancel_scope.cancel()
    assert not (c.folder).exists()


async def test_that_the_stream_is_held_and_goes_on_again_is_each_said_once(tmp_path: Path) -> None:
    a, b, _ = make_hosts(tmp_path, "abc").values()
    b.settings = replace(b.settings, timeout_s=60)  # it may have to wait, too, until it is followed
    begins, ends = "no majority has the flashblocks yet", "a majority has the flashblocks again"

    def said(event: str) -> list[MutableMapping[str, Any]]:
        return [line for line in lines if line["event"] == event]

    with capture_logs() as lines:
        async with running(a):
            await a.append(1, 4)
            await eventually(lambda: bool(said(begins)))
            async with running(b):
                await committed(a, b, entries=4)
                await eventually(lambda: bool(said(ends)))
    # The other host may say it too, of what it got and has not heard to be committed: it was connected then.
    (begin,) = [line for line in said(begins) if not line["connected"]]
    assert (begin["entries"], begin["log_level"]) == (4, "error")
    assert len(said(ends)) <= len(said(begins)) <= 2
    assert max(line["longest_wait_s"] for line in said(ends)) >= a.settings.timeout_s  # it is rounded


async def test_a_stream_that_is_not_held_is_shown_and_told_to_be_uncommitted(tmp_path: Path) -> None:
    a, b, _ = make_hosts(tmp_path, "abc", publish_on_timeout=True, timeout_s=0.2).values()
    async with running(a):
        await a.append(1, 3)
        await a.log.wait_past(2)
        assert (a.log.head, a.log.committed) == (3, 0)
        assert a.metric("published_uncommitted_entries_total") == 3
        assert "shown all the same" in a.replication.facts()[0].reason
        status = a.replication.statistics()
        assert (status["held"], status["shown_uncommitted"]) == (0, 3)
        async with running(b):
            await committed(a, b, entries=3)
            await eventually(lambda: a.log.committed == 3)
            assert a.replication.statistics()["shown_uncommitted"] == 0


async def test_that_the_stream_is_shown_without_a_majority_is_said_once_and_its_end_with_how_many_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncommitted, "QUIET_S", 0.1)
    a, b, _ = make_hosts(tmp_path, "abc", publish_on_timeout=True, timeout_s=0.2).values()
    b.settings = replace(b.settings, timeout_s=60)
    with capture_logs() as lines:
        async with running(a):
            for payload in range(1, 5):
                await a.append(payload, 2)
                await a.log.wait_past(2 * payload - 1)
            async with running(b):
                await committed(a, b, entries=8)
                end = "nothing is shown without a majority any more"
                await eventually(lambda: any(line["event"] == end for line in lines))
    said = [(line["event"], line["log_level"]) for line in lines if "shown without" in line["event"]]
    assert said == [
        ("flashblocks are shown without a majority", "error"),
        (end, "info"),
    ]
    (ended,) = [line for line in lines if line["event"] == end]
    assert ended["entries"] == a.metric("published_uncommitted_entries_total") == 8


async def test_a_host_that_is_refused_again_and_again_is_said_once_and_never_was_a_follower(tmp_path: Path) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    b.settings = replace(b.settings, host_id="z")
    with capture_logs() as lines:
        async with running(a, b):
            await eventually(lambda: followed(b, "a")["failures"] > 3 < followed(a, "b")["failures"])  # type: ignore[operator]
    refused = {line["reason"]: line for line in lines if line["event"] == "a link is refused"}
    assert len(refused) == len([line for line in lines if line["event"] == "a link is refused"]) == 2
    assert {(line["log_level"], line["attempts"]) for line in refused.values()} == {("warning", 1)}
    assert set(refused) == {
        "host_id z is not among the peers here, and does not say follow_only",  # what a says
        "refused by the other side: host_id z answered, expected b",  # what z hears
    }
    assert not any(line["event"] == "a follower has gone" for line in lines)


async def test_when_the_origin_is_lost_the_followers_show_what_they_hold(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(b, c):
        async with trio.open_nursery() as nursery:
            await nursery.start(a.run)
            await connected(a, b, c)
            await a.append(1, 5)
            await a.crash()  # whatever was acknowledged by then
        await agreed(b, c)
        await b.append(2, 2)  # the next leader
        await eventually(lambda: b.log.appended >= 2)
        await show_the_same(b, c)  # what the origin had sent may still be on its way to the disk of one
    async with running(a, b, c):
        await committed(a, b, c, entries=7)
        for host in (b, c):
            assert sorted(await host.shown()) == sorted(await a.shown())


async def show_the_same(*hosts: Host) -> None:
    with trio.fail_after(60):
        await agreed(*hosts)
        while len({tuple(sorted(await host.shown())) for host in hosts}) > 1:
            await agreed(*hosts)


async def test_of_two_hosts_the_one_that_is_left_shows_what_it_holds(tmp_path: Path) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    async with running(b):
        async with trio.open_nursery() as nursery:
            await nursery.start(a.run)
            await connected(a, b)
            entries = await a.append(1, 5)
            await a.log.wait_past(entries[-1].position - 1)  # shown on the origin, so held here
            await a.crash()
        await committed(b, entries=5)


async def test_a_host_that_is_restarted_counts_again_what_was_not_committed(tmp_path: Path) -> None:
    a, b, _ = make_hosts(tmp_path, "abc").values()
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        await a.append(1, 3)
        await a.crash()
        async with running(a, b):
            await committed(a, b, entries=3)
        nursery.cancel_scope.cancel()


async def test_learners_follow_and_have_no_vote(tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path, "ab", learners=("l", "m"))
    a, b, one, other = hosts.values()
    async with running(a, one, other):
        await connected(one, a)
        await a.append(1, 3)
        await eventually(lambda: one.log.appended == other.log.appended == 3)
        await eventually(lambda: bool(a.replication.facts()))
        assert a.log.head == one.log.head == 0  # two learners and one of two voters are no majority
        async with running(b):
            await committed(a, b, one, other, entries=3)
        assert one.replication.statistics()["role"] == "learner"
        await eventually(lambda: a.metric("follower_lag_entries", peer="learners") == 0)
        # With its vote a host ends its links, and they begin again: each learner may have heard the rest from b.
        await eventually(lambda: {"l", "m"} <= followers(a).keys())


async def test_the_lag_of_a_host_that_is_away_grows_and_learners_are_measured_by_the_slowest(tmp_path: Path) -> None:
    a, b, c, one = make_hosts(tmp_path, "abc", learners=("l",)).values()
    async with running(a, b):
        async with running(c, one):
            await a.append(1, 3)
            await committed(a, b, c, one, entries=3)
            for peer in ("b", "c", "learners"):
                await eventually(lambda peer=peer: a.metric("follower_lag_entries", peer=peer) == 0)  # type: ignore[misc]
        await a.append(1, 4, first=3)
        await committed(a, b, entries=7)
        assert a.metric("follower_lag_entries", peer="c") == 4
        # Nobody waits for one that has gone, once that was noticed.
        await eventually(lambda: a.metric("follower_lag_entries", peer="learners") == 0)
        await eventually(lambda: a.metric("follower_lag_entries", peer="b") == 0)


async def test_a_second_body_is_refused_with_evidence_and_the_majoritys_takes_its_place(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(c):
        await c.append(1, 3, text="alone")  # a sequencer that nobody hears
    async with running(a, b):
        await a.append(1, 4)
        await committed(a, b, entries=4)
        async with running(c):
            await committed(a, b, c, entries=4)
            assert await a.shown() == await c.shown()
            evidence = await c.log.evidence()
            assert {item.body for item in evidence if item.builder == "builder"} == {
                flashblock(1, index, text="alone").body for index in range(3)
            }
            refused = {item.builder for item in evidence} - {"builder"}
            assert refused
            assert refused <= {"builder@a", "builder@b"}
            assert sum(c.metric("refused_entries_total", peer=peer) for peer in "ab") >= 3
            assert c.metric("replaced_entries_total") == 3
    for host in (b, c):
        assert compare(a.folder, host.folder).same


async def test_where_hosts_are_split_evenly_the_payload_ends_and_the_stream_goes_on(tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path, "abcd")
    a, b, c, d = hosts.values()
    common = [flashblock(1, 0)]
    for host, text in ((a, "one"), (b, "one"), (c, "two"), (d, "two")):
        async with running(host):
            await host.take(common[0])
            await host.append(1, 2, first=1, text=text)
    async with running(a, b, c, d):
        await a.append(2, 2)
        await committed(a, b, c, d, entries=3)
        assert {key for key, *_ in await a.shown()} == {payload_id(1), payload_id(2)}
        for host in (b, c, d):
            assert sorted(await host.shown()) == sorted(await a.shown())
            with trio.fail_after(60):
                while await host.log.closed_at(payload_id(1)) != 1:  # noqa: ASYNC110 it comes from another host
                    await trio.sleep(0.01)


async def test_a_host_that_was_away_for_an_hour_catches_up_while_the_stream_goes_on(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    away = 18_000
    hour = replicas(flashblock(payload, index, size=400) for payload in range(away // 10) for index in range(10))
    async with running(a, b):
        for start in range(0, away, 600):
            await a.log.append_from("import", hour[start : start + 600], None)
        await committed(a, b, entries=away, timeout_s=60)
        async with running(c):
            for index in range(20):
                await a.append(9999, 1, first=index)
                await trio.sleep(0.02)
            await committed(a, b, c, entries=away + 20, timeout_s=60)
            transactions = c.transactions
            assert await c.shown() == await a.shown()
    # 190 of them, with 18,000 fsyncs it would take a minute: an acknowledgement of each entry would.
    assert transactions < away / 20
    for host in (b, c):
        assert compare(a.folder, host.folder).same


async def test_a_follower_that_stalls_is_sent_a_window_and_the_others_go_on(tmp_path: Path) -> None:
    names = make_hosts(tmp_path, "abc")
    async with proxied(("127.0.0.1", names["a"].port)) as (proxy,):
        hosts = make_hosts(tmp_path, "abc", ports={"c>a": proxy.port, "c>b": proxy.port})
        for name, host in hosts.items():
            host.port = names[name].port
        a, b, c = hosts.values()
        a.settings = replace(a.settings, peers=tuple(Peer(x, f"ws://127.0.0.1:{names[x].port}") for x in "bc"))
        b.settings = replace(b.settings, peers=tuple(Peer(x, f"ws://127.0.0.1:{names[x].port}") for x in "ac"))
        c.settings = replace(c.settings, peers=(Peer("a", proxy.url),))
        async with running(a, b, c):
            await a.append(1, 1)
            await eventually(lambda: bool(followed(c, "a")["following"]))
            proxy.stall()
            for index in range(1, 40):
                await a.append(1, 1, first=index, size=500_000)
            await committed(a, b, entries=40)
            assert int(str(followers(a).get("c", {"in_flight": 0})["in_flight"])) < 40
            proxy.heal()
            await eventually(lambda: c.log.appended >= 40)


async def test_links_that_cannot_begin_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make_hosts(tmp_path, "ab").values()

    async def fail(*_: object) -> list[object]:
        raise LogError("the disk does not answer")

    async with running(a, b):
        await connected(a, b)
        monkeypatch.setattr(a.log, "settled", fail)
        for connection in a.connections():
            connection.end("once more", failed=False)
        await eventually(lambda: int(str(followed(b, "a")["failures"])) >= 3)
        await eventually(lambda: len(a.connections()) <= 1)
        monkeypatch.undo()
        await connected(a, b)


async def test_a_change_that_is_being_written_when_the_plane_ends_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would count what is about to be removed."""
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(c):
        await c.append(1, 2, text="alone")
    async with running(a, b):
        await a.append(1, 2)
        await committed(a, b, entries=2)
        writing, go_on, done, ended = trio.Event(), trio.Event(), trio.Event(), trio.Event()
        replace_now = FlashLog.replace

        async def replace_slowly(self: FlashLog, *args: object, **kwargs: object) -> object:
            writing.set()
            await go_on.wait()
            done.set()
            return await replace_now(self, *args, **kwargs)  # type: ignore[arg-type]

        async def crash() -> None:
            await c.crash()
            ended.set()

        monkeypatch.setattr(FlashLog, "replace", replace_slowly)
        async with trio.open_nursery() as nursery:
            await nursery.start(c.run)
            await writing.wait()
            nursery.start_soon(crash)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert not ended.is_set()
            go_on.set()
            await ended.wait()
            assert done.is_set()
        monkeypatch.undo()
        async with running(c):
            await committed(a, b, c, entries=2)
            assert await a.shown() == await c.shown()


async def test_states_of_payloads_come_along(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()

    async def state(host: Host, payload: int) -> PayloadState | None:
        record = await host.log.payload(payload_id(payload))
        return record.state if record else None

    async with running(a, b):
        await a.append(1, 2)
        await a.log.set_state(payload_id(1), PayloadState.SEALED)
        await a.log.set_state(payload_id(1), PayloadState.LANDED, "0xab")
        with trio.fail_after(60):
            while await state(b, 1) is not PayloadState.LANDED:  # noqa: ASYNC110 it comes from another host
                await trio.sleep(0.01)
        async with running(c):  # also to who comes later
            with trio.fail_after(60):
                while await state(c, 1) is not PayloadState.LANDED:  # noqa: ASYNC110
                    await trio.sleep(0.01)


async def test_hosts_that_judge_a_payload_differently_do_not_tell_each_other_for_ever(tmp_path: Path) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    changes: list[PayloadState] = []
    async with running(a, b):
        await a.append(1, 1)
        await committed(a, b, entries=1)
        await connected(a, b)
        with (
            a.log.watch_states(lambda _payload, state, _hash: changes.append(state)),
            b.log.watch_states(lambda _payload, state, _hash: changes.append(state)),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.log.set_state, payload_id(1), PayloadState.LANDED, "0xab")
                nursery.start_soon(b.log.set_state, payload_id(1), PayloadState.DROPPED)
            await a.append(2, 50)
            await committed(a, b, entries=51)
        assert len(changes) <= 4  # each its own, and the other's


async def test_retention_waits_for_a_peer_and_says_so_when_it_does_not(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    entry = len(flashblock(1, 0).body) + 256
    a.retention = RetentionLimits(max_age_s=None, max_bytes=entry, slack_bytes=0, wait_bytes=5 * entry)
    async with running(a, b, c):  # with its vote a host's links begin again, and what is missed is said again
        for host in (a, b, c):
            await eventually(lambda host=host: not host.replication.statistics()["recovering"])  # type: ignore[misc]
    async with running(a, b):
        for payload in range(4):
            await a.append(payload, 1)
        await committed(a, b, entries=4)
        assert (await a.log.apply_retention()).entries == 0  # c has none of it
        for payload in range(4, 9):
            await a.append(payload, 1)
        await committed(a, b, entries=9)
        assert (await a.log.apply_retention()).entries == 3  # beyond the bound
        c.settings = replace(c.settings, peers=c.settings.peers[:1])  # follows a only
        async with running(c):
            await eventually(lambda: c.log.appended > 0 and c.log.head == c.log.appended)
            await eventually(lambda: c.log.statistics()["entries"] == 6)
            assert c.metric("missed_positions_total", peer="a") == 3
            await eventually(lambda: a.replication.awaited() == a.log.committed)
            assert (await a.log.apply_retention()).entries == 5


async def test_what_retention_removed_before_it_was_committed_holds_up_nothing(tmp_path: Path) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    a.retention = RetentionLimits(max_age_s=None, max_bytes=1, slack_bytes=0)  # waits for nobody
    async with running(a):
        for payload in range(3):
            await a.append(payload, 2)
        assert (await a.log.apply_retention()).entries == 4
        async with running(b):
            await eventually(lambda: a.log.head == a.log.appended == 6)
            await a.append(3, 1)
            await eventually(lambda: a.log.head == a.log.appended == 7)
            assert a.replication.facts() == []
            await eventually(lambda: b.log.head == b.log.appended == 3)


async def test_a_start_where_retention_has_passed_the_commit_point(tmp_path: Path) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    a.retention = RetentionLimits(max_age_s=None, max_bytes=1, slack_bytes=0)
    async with running(a):
        for payload in range(3):
            await a.append(payload, 2)
        await a.log.apply_retention()
    async with running(a, b):
        await eventually(lambda: a.log.head == a.log.appended == 6)
        await eventually(lambda: b.log.head == b.log.appended == 2)


async def test_a_damaged_flashblock_keeps_the_plane_from_running_but_not_the_process_from_starting(
    tmp_path: Path,
) -> None:
    a, _ = make_hosts(tmp_path, "ab").values()
    async with running(a):
        await a.append(1, 2)
    with contextlib.closing(sqlite3.connect(a.folder / "flashlog.db")) as database:
        database.execute("UPDATE entries SET body = x'00' WHERE position = 1")
        database.commit()
    async with open_flashlog(a.folder, commit_on_append=False) as log:
        replication = Replication(a.settings, log, ReplicationMetrics.create(CollectorRegistry()))

        async def run(*, stopping: trio.Event, task_status: trio.TaskStatus[None]) -> None:
            with open_listener(f"127.0.0.1:{a.port}") as listener:
                await replication.run(listener, stopping=stopping, task_status=task_status)

        plane = Plane("replication", run, OnCrash.RESTART)
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.supervise, lambda _: None)
            await eventually(lambda: plane.restarts > 1)
            nursery.cancel_scope.cancel()


async def test_a_host_whose_log_was_lost_has_no_vote_until_it_has_caught_up(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(a, b, c):
        await a.append(1, 3)
        await committed(a, b, c, entries=3)
        await eventually(lambda: followed(a, "c")["position"] == 3)
        await connected(a, b, c)
    for file in c.folder.iterdir():
        file.unlink()
    async with running(a, c):
        await eventually(lambda: bool(c.replication.statistics()["recovering"]))
        await a.append(2, 1)
        await eventually(lambda: c.log.appended == 4)
        await eventually(lambda: bool(a.replication.facts()))
        assert a.log.head == 3  # c has it, and does not count
        async with running(b):
            await committed(a, b, c, entries=4)
            await eventually(lambda: not c.replication.statistics()["recovering"])
        await a.append(3, 1)
        await committed(a, c, entries=5)


@pytest.mark.parametrize(
    ("change", "said_here", "said_there"),
    [
        ({"secret": b"\x02" * 32}, "HTTP 401: the token was signed with another secret", ""),
        ({"host_id": "z"}, "host_id z is not among the peers here", "host_id z answered, expected b"),
    ],
)
async def test_who_is_not_one_of_us_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], said_here: str, said_there: str
) -> None:
    a, b = make_hosts(tmp_path, "ab").values()
    b.settings = replace(b.settings, **change)  # type: ignore[arg-type]
    async with running(a, b):
        await a.append(1, 1)
        await eventually(lambda: said_here in str(followed(b, "a")["last_error"]))
        await eventually(lambda: said_there in str(followed(a, "b")["last_error"]))
        assert b.log.appended == 0
        assert a.log.head == 0


async def test_with_certificates_on_both_sides(tmp_path: Path) -> None:
    cert, key = str(TLS_FILES / "certificate.pem"), str(TLS_FILES / "key.pem")
    a, b, c = make_hosts(tmp_path, "abc", tls=TlsFiles(cert, key, cert)).values()
    for host in (a, b, c):
        peers = tuple(Peer(peer.host_id, peer.url.replace("ws://", "wss://")) for peer in host.settings.peers)
        host.settings = replace(host.settings, peers=peers)
    without = replace(c.settings, tls=None)
    async with running(a, b):
        await a.append(1, 3, size=100_000)
        await committed(a, b, entries=3)
        c.settings = without
        async with running(c):
            await eventually(lambda: c.replication.statistics()["peers"]["a"]["failures"] > 1)  # type: ignore[index]
            assert c.log.appended == 0


async def test_a_plane_that_crashes_loses_nothing_and_commits_again_after_its_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    follow = Following.run
    crashed = trio.Event()

    async def crash_once(self: Following) -> None:
        if crashed.is_set():
            await follow(self)
        await trio.sleep(0.2)
        crashed.set()
        raise RuntimeError("a bug")

    async with running(b, c):
        async with trio.open_nursery() as nursery:
            await nursery.start(a.run)
            await a.append(1, 2)
            await committed(a, b, c, entries=2)
            plane = a.replication
            await a.append(1, 3, first=2)
            await a.crash()
            nursery.cancel_scope.cancel()
        async with running(a):
            assert a.replication is not plane
            await committed(a, b, c, entries=5)


async def test_the_status_shows_each_peer_in_both_directions(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(a, b, c):
        for host in (a, b, c):
            await eventually(lambda host=host: not host.replication.statistics()["recovering"])  # type: ignore[misc]
        await connected(a, b, c)
        await a.append(1, 3)
        await committed(a, b, c, entries=3)
        await eventually(lambda: a.metric("acked_entries_total", peer="b") >= 3)  # metrics follow within 50 ms
        await eventually(lambda: a.metric("following", peer="b") == a.metric("followers", peer="b") == 1)
        # A link that its other end has given up, for one with a vote, is noticed a moment later.
        await eventually(lambda: set(followers(a)) == {"b", "c"})
        status = a.replication.statistics()
        assert (status["host_id"], status["role"], status["quorum"]) == ("a", "voter", "2 of 3")
        assert (status["committed"], status["held"]) == (3, 0)
        assert set(status["peers"]) == set(status["followers"]) == {"b", "c"}  # type: ignore[call-overload]
        latency = status["commit_ms"]
        assert isinstance(latency, dict)
        assert 0 < latency["p50"] <= latency["max"]
        assert a.metric("commit_seconds_count") == 3
        assert a.metric("following", peer="b") == 1
        assert a.metric("followers", peer="b") == 1
    assert a.settings.secret.hex() not in repr(status)
    assert repr(a.settings.secret) not in repr(status)


async def test_reading_the_log_at_a_start_is_no_standstill_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, tmp_path: Path
) -> None:
    signs: list[float] = []

    async def feed_for_ever(_runner: Runner) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Runner, "_feed", feed_for_ever)
    monkeypatch.setattr(Core, "alive", lambda _core, now: signs.append(now))
    async with open_flashlog(tmp_path, commit_on_append=False) as log:
        membership = Membership("a", log.log_id, b"s" * 32, frozenset("abc"), 2)
        runner = await Runner.create(membership, ("b", "c"), log, ReplicationMetrics.create(CollectorRegistry()))
        nursery.start_soon(runner.run)
        await eventually(lambda: len(signs) > 2)
        nursery.cancel_scope.cancel()
