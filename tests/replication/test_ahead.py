"""Flashblocks that voters store while they are still on their way to the origin's disk."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from msgspec import structs

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Record, extend_prefix
from appliance.flashlog.maintenance import verify
from appliance.replication.commands import End, SaveCursor, Take
from appliance.replication.core import MAX_TAKING, Core
from appliance.replication.source_link import WINDOW_ENTRIES
from appliance.wire.replication import Ack, Ahead, Entries
from tests.replication.hosts import Host, committed, make_hosts, running
from tests.replication.test_core import Played, log_of
from tests.support.eventually import eventually

P, Q = PayloadId("0x01"), PayloadId("0x02")


def coming(payload_id: PayloadId = P, index: int = 0, body: bytes = b"x0", born: float = 100.0) -> Record:
    """What the log says of the first flashblock of a payload before it has it."""
    prefix = extend_prefix(b"", body, Encoding.TEXT)
    return Record(0, payload_id, index, 1, Encoding.TEXT, "a", born, body, prefix)


def ahead(body: bytes = b"x0", payload_id: PayloadId = P) -> Ahead:
    prefix = extend_prefix(b"", body, Encoding.TEXT)
    return Ahead(payload_id, 0, 1, Encoding.TEXT, "b", 0.0, body, prefix)


def tell(host: Played, record: Record) -> None:
    host.core.coming(record, host.disk.last, host.now)
    host.play()


# --- the origin ---


def test_voters_are_told_before_the_disk_has_it_and_once_more_after_that() -> None:
    host = Played()
    b, c = host.serve("b"), host.serve("c")
    tell(host, coming(born=99.5))
    for link in (b, c):
        assert host.sent(link, Ahead) == [structs.replace(ahead(), builder="a", age_s=0.5)]
        assert host.sent(link, Entries) == []
    assert host.core.open == 0
    host.originate(P, 0)
    assert [entry.body for entry in host.sent(b, Entries)[0].entries] == [b"x0"]


def test_learners_and_who_has_not_all_before_it_are_told_nothing() -> None:
    host = Played()
    learner, new, slow = host.serve("l"), host.serve("b", recovering=True), host.serve("c")
    for index in range(WINDOW_ENTRIES + 1):  # the last one waits for an acknowledgement
        host.originate(Q, index)
    tell(host, coming())
    assert [host.sent(link, Ahead) for link in (learner, new, slow)] == [[], [], []]
    host.hear(slow, Ack(100, [], []))
    tell(host, coming())
    assert len(host.sent(slow, Ahead)) == 1


def test_a_host_without_a_vote_tells_nobody() -> None:
    host = Played(recovering=True)
    link = host.serve("b")
    tell(host, coming())
    assert host.sent(link, Ahead) == []


# --- the voter ---


def test_it_is_stored_as_if_a_builder_had_brought_it() -> None:
    host = Played()
    following, serving = host.follow("b"), host.serve("c")
    host.hear(following, ahead())
    assert [take.entry.body for take in host.taken(Take)] == [b"x0"]
    assert host.disk.at(P, 0) is not None
    assert host.sent(following, Ack) == []
    (entry,) = host.sent(serving, Entries)[0].entries
    assert (entry.body, entry.committed) == (b"x0", False)


def test_it_is_no_vote_of_the_peer_which_comes_with_the_entry() -> None:
    host = Played()
    link = host.follow("b")
    host.hear(link, ahead())
    assert (host.core.open, host.core.committed) == (1, 0)
    host.hear(link, log_of("b", (P, 0, "x")))
    assert host.sent(link, Ack) == [Ack(1, [], [])]
    assert host.core.committed == 1


def test_who_sent_it_does_not_get_the_body_back() -> None:
    host = Played()
    serving, following = host.serve("b"), host.follow("b")
    host.hear(following, ahead())
    (entry,) = host.sent(serving, Entries)[0].entries
    assert entry.body is None


def test_what_needs_a_decision_waits_for_the_entry() -> None:
    learner = Played("l")
    learner.hear(learner.follow("b"), ahead())
    new = Played(recovering=True)
    new.hear(new.follow("b"), ahead())
    without_vote = Played()
    without_vote.hear(without_vote.follow("b", recovering=True), ahead())
    assert [host.taken(Take) for host in (learner, new, without_vote)] == [[], [], []]


def test_a_late_one_is_not_taken() -> None:
    host = Played()
    link = host.follow("b")
    host.hear(link, log_of("b", (Q, 0, "q"), born=100.0))
    host.originate(Q, 1, "q")
    host.hear(link, structs.replace(ahead(), age_s=0.4))
    assert len(host.taken(Take)) == 1
    host.hear(link, structs.replace(ahead(b"y0", PayloadId("0x03")), age_s=0.6))
    assert host.taken(Take) == []


def test_few_wait_for_the_disk_at_a_time() -> None:
    host = Played()
    link = host.follow("b")
    for number in range(MAX_TAKING + 3):
        host.core.received(link, ahead(payload_id=PayloadId(f"0x1{number}")), host.now)
    takes = [command for command in host.core.take_commands() if isinstance(command, Take)]
    assert len(takes) == MAX_TAKING
    host.core.taken(takes[0], host.now)
    host.hear(link, ahead())
    assert len(host.taken(Take)) == 1


def test_an_answer_for_a_link_that_has_ended_changes_nothing_on_the_next_one() -> None:
    host = Played()
    old = host.follow("b")
    host.core.received(old, ahead(), host.now)
    (take,) = (command for command in host.core.take_commands() if isinstance(command, Take))
    host.core.ended(old, host.now)
    new = host.follow("b")
    host.core.taken(take, host.now)
    for number in range(MAX_TAKING + 1):
        host.core.received(new, ahead(payload_id=PayloadId(f"0x1{number}")), host.now)
    assert sum(isinstance(command, Take) for command in host.core.take_commands()) == MAX_TAKING


def test_where_the_origin_has_lost_it_the_body_comes_on_the_next_link() -> None:
    """Its disk refused, say: the voter left the body out for whom it had it from."""
    origin = Played()
    link = origin.follow("b")
    (entry,) = log_of("b", (P, 0, "x")).entries
    origin.hear(link, Entries([structs.replace(entry, body=None)]))
    assert [(end.link, end.failed) for end in origin.taken(End)] == [(link, True)]
    assert origin.taken(SaveCursor) == []  # the peer's whole log is not needed for that
    origin.hear(origin.follow("b"), Entries([entry]))
    assert origin.disk.at(P, 0) is not None


# --- processes' worth of hosts ---


@contextmanager
def stalled(host: Host) -> Iterator[Callable[[], None]]:
    """The disk of a host takes nothing until the function that this gives is called."""
    store, released = host.log._files.store, threading.Event()
    apply = store.apply

    def wait_and_apply(jobs: Sequence[Callable[..., object]]) -> list[object]:
        released.wait(30)
        return apply(jobs)

    store.apply = wait_and_apply  # type: ignore[method-assign]
    try:
        yield released.set
    finally:
        released.set()
        store.apply = apply  # type: ignore[method-assign]


async def linked(*hosts: Host) -> None:
    """All links are there, in both directions."""
    for host in hosts:
        await eventually(lambda host=host: len(host.replication._servings) == len(hosts) - 1)  # type: ignore[misc]


async def test_two_voters_commit_what_the_origins_disk_does_not_have_yet(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(a, b, c):
        await a.append(1, 1)
        await committed(a, b, c, entries=1)
        await linked(a, b, c)
        async with trio.open_nursery() as nursery:
            with stalled(a) as release:
                nursery.start_soon(a.append, 1, 1, 1)
                await committed(b, c, entries=2)
                assert (a.log.appended, a.log.head) == (1, 1)
                release()
        before = a.transactions
        await committed(a, b, c, entries=2)
        assert await a.shown() == await b.shown() == await c.shown()
        assert a.transactions == before  # what came back from its peers costs it no transaction of its own
    for host in (a, b, c):
        assert verify(host.folder).ok


async def test_an_origin_that_dies_before_its_fsync_gets_the_flashblock_back(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc").values()
    async with running(b, c):
        async with trio.open_nursery() as nursery:
            await nursery.start(a.run)
            await a.append(1, 1)
            await committed(a, b, c, entries=1)
            await linked(a, b, c)
            store = a.log._files.store
            store.apply = _refuse  # type: ignore[method-assign]
            nursery.start_soon(_append_in_vain, a)
            await committed(b, c, entries=2)
            await a.crash()
        async with running(a):
            await committed(a, b, c, entries=2)
            assert await a.shown() == await b.shown()


def _refuse(jobs: object) -> list[object]:
    raise LogError("the disk is full")


async def _append_in_vain(host: Host) -> None:
    with pytest.raises(LogError, match="the disk is full"):
        await host.append(1, 1, 1)


async def test_a_bug_in_this_plane_ends_it_and_not_the_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    a = make_hosts(tmp_path, "abc")["a"]
    monkeypatch.setattr(Core, "coming", fail)
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True, allow_unwrapped=True):
        async with running(a):
            await eventually(lambda: bool(a.log._state.is_watched))
            (entry,) = await a.append(1, 1)
            assert entry.position == 1
            await trio.sleep_forever()
