"""The log of a host that has peers, as the replication plane uses it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from appliance.domain.errors import EquivocationError, LogError, PrunedError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import AfterPayload, Located
from appliance.domain.replicas import Cursor, Receipt, Verdict
from appliance.flashlog import FlashLog, RetentionLimits, open_flashlog
from appliance.flashlog.maintenance import backup, verify
from appliance.flashlog.tail import TailLimits
from tests.flashlog.replicas import replicas
from tests.flashlog.support import flashblock, payload_id


def opened(folder: Path, retention: RetentionLimits | None = None) -> AbstractAsyncContextManager[FlashLog]:
    return open_flashlog(folder, commit_on_append=False, retention=retention or RetentionLimits())


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[FlashLog]:
    async with opened(tmp_path) as flashlog:
        yield flashlog


async def append(log: FlashLog, payload: int, count: int, text: str = "") -> None:
    for index in range(count):
        await log.append(flashblock(payload, index, text=text), "a")


async def test_what_is_appended_is_not_shown_until_it_is_committed(log: FlashLog) -> None:
    await append(log, 1, 3)
    assert (log.appended, log.head) == (3, 0)
    assert log.recent(0, 10) == []
    assert await log.read(0, limit=10, max_bytes=10**6) == []
    assert [record.position for record in log.recent_records(0, 10) or []] == [1, 2, 3]
    assert await log.records(0, limit=10, max_bytes=10**6) == log.recent_records(0, 10)
    log.commit_through(2)
    assert [entry.position for entry in log.recent(0, 10) or []] == [1, 2]
    assert await log.locate(AfterPayload(payload_id(1), 2)) == Located(2, skip_through=(1001, 2))


async def test_what_readers_may_not_see_yet_is_counted_by_payload(log: FlashLog) -> None:
    assert log.unseen(payload_id(1)) == 0
    await append(log, 1, 3)
    await append(log, 2, 2)
    assert [log.unseen(payload_id(number)) for number in (1, 2, 3)] == [3, 2, 0]
    log.commit_through(2)
    assert [log.unseen(payload_id(number)) for number in (1, 2)] == [1, 2]
    await log.requeue(payload_id(1), 2)  # it stands behind the other payload now
    log.commit_through(5)
    assert [log.unseen(payload_id(number)) for number in (1, 2)] == [1, 0]
    log.show_through(6)
    assert log.unseen(payload_id(1)) == 0


async def test_of_very_many_that_wait_the_newest_are_counted(log: FlashLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log._state.records, "_limits", TailLimits(max_entries=4))
    await append(log, 1, 5)
    await append(log, 2, 3)
    assert [log.unseen(payload_id(number)) for number in (1, 2)] == [1, 3]


async def test_a_log_of_a_host_without_peers_shows_all_that_it_has(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log:
        await append(log, 1, 3)
        assert log.unseen(payload_id(1)) == 0


async def test_what_is_only_shown_is_not_committed_after_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await append(log, 1, 3)
        log.commit_through(1)
        log.show_through(2)
        assert (log.committed, log.head) == (1, 2)
        await append(log, 2, 1)
    async with opened(tmp_path) as log:
        assert (log.committed, log.head, log.appended) == (1, 1, 4)


async def test_a_backup_is_another_log_and_has_no_vote(tmp_path: Path) -> None:
    async with opened(tmp_path / "log") as log:
        await append(log, 1, 2)
        await log.set_recovering(recovering=False)
        (tmp_path / "restored").mkdir()
        backup(tmp_path / "log", tmp_path / "restored" / "flashlog.db")
        await append(log, 2, 1)  # a vote that the backup knows nothing of
        async with opened(tmp_path / "restored") as restored:
            assert restored.log_id != log.log_id
            assert await restored.recovering()
        assert not await log.recovering()


async def test_a_log_remembers_that_its_host_must_not_vote(tmp_path: Path) -> None:
    for expected in (True, False, True):
        async with opened(tmp_path) as log:
            assert await log.recovering() is expected
            await log.set_recovering(recovering=not expected)


async def test_what_a_new_peer_is_told_of_payloads(log: FlashLog) -> None:
    for payload in (1, 2, 3):
        await append(log, payload, 1)
    await log.set_state(payload_id(3), PayloadState.SEALED)
    await log.set_state(payload_id(1), PayloadState.LANDED, "0x1")
    assert await log.settled(9) == [
        (payload_id(1), PayloadState.LANDED, "0x1"),
        (payload_id(3), PayloadState.SEALED, None),
    ]
    assert await log.settled(1) == [(payload_id(3), PayloadState.SEALED, None)]
    await log.close_payload(payload_id(2), 0)
    await log.close_payload(payload_id(7), 3)
    assert await log.closed() == [(payload_id(2), 0), (payload_id(7), 3)]
    assert await log.pruned_through() == 0


async def test_a_host_that_follows_has_the_same_bytes(log: FlashLog) -> None:
    receipts = await log.append_from("b", replicas([flashblock(1, 0), flashblock(1, 1)]), Cursor("x", 2))
    assert receipts == [Receipt(Verdict.NEW, 1), Receipt(Verdict.NEW, 2)]
    assert await log.cursor_of("b") == Cursor("x", 2)
    assert log.statistics()["entries"] == 2
    assert [record.builder for record in log.recent_records(0, 9) or []] == ["a", "a"]
    log.set_cursor("b", Cursor("x", 1))
    log.set_cursor("c", Cursor("y", 4))
    await log.set_recovering(recovering=False)  # behind them
    assert await log.cursor_of("b") == Cursor("x", 1)
    assert await log.cursor_of("c") == Cursor("y", 4)
    record = await log.record(payload_id(1), 1)
    assert record is not None
    assert record.body == flashblock(1, 1).body
    assert await log.record(payload_id(1), 2) is None


async def test_waiting_for_entries_that_need_not_be_committed(log: FlashLog) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.wait_appended_past, 0)
        await trio.testing.wait_all_tasks_blocked()
        await append(log, 1, 1)
    assert log.head == 0


async def test_closing_the_log_ends_the_waiting_for_entries(tmp_path: Path) -> None:
    async def wait(log: FlashLog) -> None:
        with pytest.raises(LogError, match="closed"):
            await log.wait_appended_past(0)

    async with trio.open_nursery() as nursery, opened(tmp_path) as log:
        nursery.start_soon(wait, log)
        await trio.testing.wait_all_tasks_blocked()


async def test_the_commit_point_is_there_after_an_orderly_stop(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await append(log, 1, 3)
        log.commit_through(2)
    async with opened(tmp_path) as log:
        assert (log.appended, log.head) == (3, 2)
        assert log.recent_records(2, 10) is None  # from before the start: on disk
        assert [record.position for record in await log.records(2, limit=9, max_bytes=9)] == [3]


async def test_a_log_that_was_not_replicated_is_committed_and_so_is_one_that_no_longer_is(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log:
        await append(log, 1, 2)
    async with opened(tmp_path) as log:
        assert log.head == 2
        await append(log, 2, 2)
        assert log.head == 2
    async with open_flashlog(tmp_path) as log:
        assert log.head == 4
    async with opened(tmp_path) as log:
        assert log.head == 4


async def test_the_log_keeps_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = log.log_id
    async with opened(tmp_path) as log:
        assert log.log_id == first
        assert log.statistics()["log_id"] == first


async def test_a_branch_that_lost_leaves_memory_and_counts_too(log: FlashLog) -> None:
    await append(log, 1, 3, text="mine")
    await append(log, 2, 1)
    replaced = await log.replace(payload_id(1), 1, peer="b", cursors={"b": Cursor("x", 0)})
    assert (replaced.removed, replaced.shown) == (2, 0)
    assert [record.position for record in log.recent_records(0, 10) or []] == [1, 4]
    statistics = log.statistics()
    assert (statistics["entries"], statistics["payloads"], statistics["replaced"]) == (2, 2, 2)
    log.commit_through(4)
    assert [entry.position for entry in log.recent(0, 10) or []] == [1, 4]
    assert len(await log.evidence()) == 2


async def test_a_branch_that_was_shown_is_told(log: FlashLog) -> None:
    await append(log, 1, 3)
    log.commit_through(2)
    assert (await log.replace(payload_id(1), 0)).shown == 2


async def test_the_local_stream_does_not_go_on_behind_another_hosts_branch(log: FlashLog) -> None:
    await append(log, 1, 2, text="mine")
    await log.replace(payload_id(1), 1, peer="b", with_=replicas([flashblock(1, 0, text="mine"), flashblock(1, 1)]))
    with pytest.raises(EquivocationError, match="another branch"):
        await log.append(flashblock(1, 2), "a")
    await append(log, 3, 2)


async def test_the_local_stream_goes_on_behind_the_same_bodies_from_another_host(log: FlashLog) -> None:
    await log.append_from("b", replicas([flashblock(1, 0), flashblock(1, 1)]), None)
    await append(log, 1, 4)
    assert log.appended == 4


async def test_a_closed_payload_takes_nothing_more(log: FlashLog, tmp_path: Path) -> None:
    await append(log, 1, 2)
    assert (await log.close_payload(payload_id(1), 1)).removed == 1
    assert await log.closed_at(payload_id(1)) == 1
    with pytest.raises(EquivocationError, match="closed"):
        await log.append(flashblock(1, 1), "a")
    assert verify(tmp_path).ok


async def test_states_are_told_after_they_are_on_disk_wherever_they_come_from(log: FlashLog) -> None:
    told: list[tuple[PayloadId, PayloadState, str | None]] = []
    await append(log, 1, 1)
    with log.watch_states(lambda *change: told.append(change)):
        await log.set_state(payload_id(1), PayloadState.SEALED)
        await log.set_state(payload_id(1), PayloadState.SEALED)  # the same again is no news
        assert await log.follow_state(payload_id(1), PayloadState.LANDED, "0x1")
        assert not await log.follow_state(payload_id(1), PayloadState.LANDED, "0x1")
        assert not await log.follow_state(payload_id(1), PayloadState.SEALED, None)  # not a step that there is
        assert not await log.follow_state(payload_id(9), PayloadState.LANDED, None)  # not here
    await log.set_state(payload_id(1), PayloadState.DROPPED)
    assert told == [(payload_id(1), PayloadState.SEALED, None), (payload_id(1), PayloadState.LANDED, "0x1")]


async def test_retention_waits_for_a_peer_within_its_bound(tmp_path: Path) -> None:
    size = len(flashblock(1, 0).body) + 256
    limits = RetentionLimits(max_age_s=None, max_bytes=size, slack_bytes=0, wait_bytes=2 * size)
    async with opened(tmp_path, limits) as log:
        for payload in (1, 2, 3, 4):
            await append(log, payload, 1)
        log.keep_for(lambda: 2)
        assert (await log.apply_retention()).entries == 2  # what the peer has
        with pytest.raises(PrunedError):
            await log.records(1, limit=1, max_bytes=1)
        assert [record.position for record in await log.records(2, limit=9, max_bytes=10**6)] == [3, 4]
        for payload in (5, 6):
            await append(log, payload, 1)
        assert (await log.apply_retention()).entries == 1  # beyond the bound it waits no longer
        assert log.statistics()["retention_overruns"] == 1
        log.keep_for(lambda: None)
        assert (await log.apply_retention()).entries == 2


async def test_a_disk_that_refuses_leaves_neither_entries_nor_cursor(log: FlashLog) -> None:
    store = log._files.store
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    store.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LogError, match="the disk is full"):
        await log.append_from("b", replicas([flashblock(1, 0, size=100_000)]), Cursor("x", 1))
    store.connection.execute("PRAGMA max_page_count = 1000000")
    assert (log.appended, await log.cursor_of("b")) == (0, None)
    assert await log.append_from("b", replicas([flashblock(1, 0)]), Cursor("x", 1)) == [Receipt(Verdict.NEW, 1)]


async def test_what_memory_knows_to_be_held_costs_no_transaction(tmp_path: Path) -> None:
    sent = replicas([flashblock(1, 0), flashblock(1, 1)])
    async with opened(tmp_path) as log:
        assert log.held_from("c", sent, Cursor("y", 2)) is None
        assert await log.cursor_of("c") is None
        await log.append_from("b", sent, Cursor("x", 2))
        assert log.held_from("c", sent, Cursor("y", 2)) == [Receipt(Verdict.HELD, 1), Receipt(Verdict.HELD, 2)]
        assert log.held_from("c", replicas([flashblock(1, 0, text="other")]), Cursor("y", 3)) is None
        assert await log.cursor_of("c") == Cursor("y", 2)
        assert log.statistics()["waiting_writes"] == 0
        await log.close_payload(payload_id(1), 1)
        assert log.held_from("c", sent, None) is None
        assert log.held_from("c", sent[:1], None) == [Receipt(Verdict.HELD, 1)]
    async with opened(tmp_path) as log:
        assert await log.cursor_of("c") == Cursor("y", 2)
        assert log.held_from("c", sent[:1], None) is None  # memory begins with the process: the transaction knows
        assert await log.append_from("c", sent[:1], None) == [Receipt(Verdict.HELD, 1)]
