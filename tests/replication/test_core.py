"""One host's core as a playbook: what comes in, what it asks for."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pytest
from msgspec import structs

from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Cursor, Record
from appliance.replication import core as core_module
from appliance.replication import ledger
from appliance.replication.commands import (
    Close,
    Command,
    CommitThrough,
    End,
    FollowState,
    Notice,
    Read,
    Renew,
    Replace,
    Requeue,
    SaveCursor,
    Send,
    SetRecovered,
    ShowThrough,
    Store,
)
from appliance.replication.core import Core
from appliance.replication.follower_link import SAVE_CURSOR_S
from appliance.replication.links import ACK_S, HANDSHAKE_S
from appliance.replication.membership import Membership, Restored
from appliance.replication.places import Place
from appliance.replication.source_link import WINDOW_BYTES, WINDOW_ENTRIES
from appliance.wire.replication import (
    VERSION,
    Ack,
    AnyMessage,
    Closed,
    Committed,
    Entries,
    Hello,
    Passed,
    Pruned,
    Refusal,
    Settled,
    Welcome,
    WirePlace,
    welcome_proof,
)
from tests.replication.simulation.disk import DiskLog

SECRET = b"s" * 32
NONCE = b"n" * 16
ABC = frozenset("abc")
P, Q, R = PayloadId("0x01"), PayloadId("0x02"), PayloadId("0x03")
C = TypeVar("C")
M = TypeVar("M", bound=AnyMessage)


class Played:
    """A core with a disk that is never slow: storage commands are carried out at once."""

    def __init__(
        self,
        name: str = "a",
        *,
        disk: DiskLog | None = None,
        voters: frozenset[str] = ABC,
        recovering: bool = False,
        known_logs: dict[str, str] | None = None,
        publish_after_s: float | None = None,
    ) -> None:
        self.disk = disk or DiskLog(f"log-{name}")
        self.membership = Membership(
            name,
            self.disk.log_id,
            SECRET,
            voters,
            len(voters) // 2 + 1,
            name not in voters,
            publish_after_s,
        )
        restored = Restored(
            self.disk.last,
            self.disk.committed,
            self.disk.pruned,
            tuple(self.disk.ends.items()),
            known_logs or {},
            recovering,
        )
        self._now = 100.0
        self.core = Core(self.membership, restored, self.now, 0.0)
        self.done: list[Command] = []
        self.slow_reads: list[tuple[Read, list[Record]]] | None = None
        """What reads found whose answers are on their way, where reading is slow."""
        self.play()

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        """Time passes, and the loop runs meanwhile."""
        while self._now < now:
            self._now = min(now, self._now + 0.25)
            self.core.alive(self._now)

    def stand_still(self, seconds: float) -> None:
        """Time passes, and nothing runs."""
        self._now += seconds

    def play(self) -> None:
        while commands := self.core.take_commands():
            for command in commands:
                self.done.append(command)
                self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Store):
            receipts = self.disk.append_from(command.entries, command.late)
            self.feed()
            self.core.stored(command, receipts, self.now)
        elif isinstance(command, Replace):
            self.disk.replace(command.payload_id, command.from_index)
            self.core.removed(command, self.now)
        elif isinstance(command, Close):
            self.disk.close(command.payload_id, command.at)
            self.core.closed(command, self.now)
        elif isinstance(command, Read) and self.slow_reads is not None:
            self.slow_reads.append((command, self.disk.after(command.after, command.limit, command.through)))
        elif isinstance(command, Read):
            self.core.read(command, self.disk.after(command.after, command.limit, command.through), self.now)
        elif isinstance(command, SetRecovered):
            self.core.recovered(command, self.now)

    def feed(self) -> None:
        if self.core.seen < self.disk.last:
            self.core.feed(self.disk.after(self.core.seen, 1000), self.disk.last, self.now)

    def originate(self, payload_id: PayloadId, index: int, text: str = "x", born: float = 100.0) -> None:
        assert self.disk.append(payload_id, index, 1, self.membership.host_id, f"{text}{index}".encode(), born, None)
        self.feed()
        self.play()

    def hear(self, link: str, message: AnyMessage) -> None:
        self.core.received(link, message, self.now)
        self.play()

    def tick(self, now: float) -> None:
        self.now = now
        self.core.tick(now)
        self.play()

    def taken(self, kind: type[C]) -> list[C]:
        found: list[C] = [command for command in self.done if isinstance(command, kind)]
        self.done = [command for command in self.done if not isinstance(command, kind)]
        return found

    def sent(self, link: str, kind: type[M]) -> list[M]:
        return [
            command.message
            for command in self.done
            if isinstance(command, Send) and command.link == link and isinstance(command.message, kind)
        ]

    def notices(self) -> list[str]:
        return [command.name for command in self.done if isinstance(command, Notice)]

    # --- links with hosts that exist only as messages ---

    def follow(self, peer: str, log_id: str = "", cursor: Cursor | None = None, **changes: Any) -> str:
        """Follow a peer that says welcome; the link's name."""
        link = f"to {peer} {len(self.done)}"
        self.core.follower_opened(link, peer, NONCE, cursor, self.now)
        self.play()
        self.hear(link, self.welcome(peer, log_id or f"log-{peer}", **changes))
        return link

    def welcome(self, peer: str, log_id: str, **changes: Any) -> Welcome:
        own = self.membership
        fields: dict[str, Any] = {
            "version": VERSION,
            "host_id": peer,
            "log_id": log_id,
            "proof": welcome_proof(SECRET, NONCE, follower=own.host_id, source=peer, log_id=log_id),
            "appended": 0,
            "follow_only": False,
            "recovering": False,
            "another_log": False,
            "voters": sorted(own.voters),
            "quorum": own.quorum,
        }
        return Welcome(**{**fields, **changes})

    def serve(self, peer: str, **changes: Any) -> str:
        """A peer follows this host; the link's name."""
        link = f"from {peer} {len(self.done)}"
        self.core.source_opened(link, self.now)
        fields: dict[str, Any] = {
            "version": VERSION,
            "host_id": peer,
            "log_id": f"log-{peer}",
            "nonce": NONCE,
            "follow_only": peer not in self.membership.voters,
            "recovering": False,
            "cursor_log_id": "",
            "cursor": 0,
            "voters": sorted(self.membership.voters),
            "quorum": self.membership.quorum,
        }
        self.hear(link, Hello(**{**fields, **changes}))
        return link


def entries_of(other: Played, *, link: str, committed: bool = False) -> Entries:
    """What another host sent on a link, all of it in one message."""
    wire = [entry for message in other.sent(link, Entries) for entry in message.entries]
    return Entries([structs.replace(entry, committed=committed) for entry in wire])


def log_of(peer: str, *places: tuple[PayloadId, int, str], born: float = 100.0, committed: bool = False) -> Entries:
    """The messages of a peer whose log holds these."""
    other = Played(peer)
    for payload_id, index, text in places:
        other.originate(payload_id, index, text, born)
    return entries_of(other, link=other.serve("a"), committed=committed)


# --- the handshake ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 9}, "replication version 9, this host speaks 1"),
        ({"host_id": "a", "follow_only": False}, "host_id a is this host's own"),
        ({"log_id": "log-a"}, "log log-a is this host's own: a copied folder?"),
        ({"host_id": "x", "follow_only": False}, "host_id x is not among the peers here, and does not say follow_only"),
        ({"follow_only": True}, "host_id b votes here, and says follow_only"),
    ],
)
def test_a_follower_that_is_not_to_follow_is_told_why(changes: dict[str, Any], reason: str) -> None:
    host = Played()
    link = host.serve("b", **changes)
    assert host.sent(link, Refusal) == [Refusal(reason)]
    assert host.taken(End) == [End(link, reason, True)]
    assert host.core.serving(link) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 9}, "replication version 9, this host speaks 1"),
        ({"host_id": "c"}, "host_id c answered, expected b"),
        ({"proof": b"?" * 32}, "it does not know the secret"),
        ({"follow_only": True}, "host_id b votes here, and says follow_only"),
    ],
)
def test_a_source_that_is_not_who_it_should_be_is_not_followed(changes: dict[str, Any], reason: str) -> None:
    host = Played()
    link = host.follow("b", **changes)
    assert [end.reason for end in host.taken(End)] == [reason]
    assert host.core.following(link) is None


def test_a_refusal_ends_the_link() -> None:
    host = Played()
    host.core.follower_opened("link", "b", NONCE, None, host.now)
    host.hear("link", Refusal("you are a stranger"))
    assert host.taken(End) == [End("link", "refused: you are a stranger", True)]


def test_a_follower_that_refuses_this_host_ends_the_link_with_its_reason() -> None:
    host = Played()
    link = host.serve("b")
    host.hear(link, Refusal("host_id a answered, expected z"))
    assert host.taken(End) == [End(link, "refused by the other side: host_id a answered, expected z", True)]
    assert host.core.serving(link) is None


@pytest.mark.parametrize("message", [Ack(0, [], []), Refusal("?"), Pruned(1)])
def test_what_does_not_belong_on_a_link_ends_it(message: AnyMessage) -> None:
    host = Played()
    host.core.source_opened("new", host.now)
    host.hear("new", message)
    link = host.serve("b")
    if not isinstance(message, Ack):
        host.hear(link, message)
    assert [end.link for end in host.taken(End)] == (["new"] if isinstance(message, Ack) else ["new", link])


@pytest.mark.parametrize("message", [Ack(0, [], []), Refusal("?"), Pruned(10**9)])
def test_nonsense_while_the_disk_is_busy_ends_the_link_when_its_turn_comes(message: AnyMessage) -> None:
    host = Played()
    link = host.follow("b")
    host.core.received(link, log_of("b", (P, 0, "x")), host.now)
    host.core.received(link, message, host.now)
    host.play()
    assert [(end.link, end.failed) for end in host.taken(End)] == [(link, True)]


def test_a_source_that_knows_no_window_is_cut_off() -> None:
    host = Played()
    link = host.follow("b")
    (one,) = log_of("b", (P, 0, "x")).entries
    for position in range(1, 5000):
        host.core.received(link, Entries([structs.replace(one, position=position)]), host.now)
    waiting = sum(isinstance(command, Store) for command in host.core.take_commands())
    assert waiting == 2 * WINDOW_ENTRIES
    assert host.core.following(link) is None


def test_a_source_that_sends_bodies_without_end_is_cut_off() -> None:
    host = Played()
    link = host.follow("b")
    (one,) = log_of("b", (P, 0, "x")).entries
    for position in range(1, 10):
        large = structs.replace(one, position=position, body=bytes(4 * 2**20))
        host.core.received(link, Entries([large]), host.now)
    assert sum(isinstance(command, Store) for command in host.core.take_commands()) == 2 * WINDOW_BYTES // 2**22
    assert host.core.following(link) is None


def test_what_comes_on_a_link_that_was_ended_is_ignored() -> None:
    host = Played()
    host.hear("nobody", Ack(0, [], []))
    assert host.done == []


def test_after_a_standstill_what_came_meanwhile_is_fetched_anew() -> None:
    """Its age is that at which it was sent: taken now it would count as younger than what is fetched after it."""
    host = Played()
    links, served = [host.follow(peer) for peer in "bc"], host.serve("b")
    host.stand_still(8.0)
    host.hear(links[0], log_of("b", (P, 0, "x"), born=100.0))
    ended = host.taken(End)
    assert [end.link for end in ended] == links
    assert ended[0].reason == "this host stood still for 8.0 s"
    assert not host.disk.entries
    assert host.core.serving(served) is not None
    again = host.follow("b")
    host.hear(again, log_of("b", (P, 0, "x"), (Q, 0, "x"), born=100.0))
    assert [record.payload_id for record in host.disk.after(0, 10)] == [P, Q]


def test_a_loop_that_runs_does_not_stand_still_however_long_nothing_comes() -> None:
    host = Played()
    link = host.follow("b")
    host.now += 600.0
    host.stand_still(0.4)
    host.hear(link, log_of("b", (P, 0, "x")))
    assert not host.taken(End)
    assert len(host.disk.entries) == 1


def test_of_two_links_of_one_follower_the_new_one_stays() -> None:
    host = Played()
    old, new = host.serve("b"), host.serve("b")
    assert [end.link for end in host.taken(End)] == [old]
    assert host.core.serving(new) is not None


@pytest.mark.parametrize("first", [Played.serve, Played.follow])
def test_of_two_hosts_of_one_name_only_the_first_is_taken(first: Callable[..., str]) -> None:
    host = Played()
    link = first(host, "b", log_id="log-b")
    others = [host.serve("b", log_id="another"), host.follow("b", log_id="another")]
    reason = "host_id b is connected with another log: are there two of that name?"
    assert host.taken(End) == [End(other, reason, True) for other in others]
    assert host.core.serving(link) or host.core.following(link)
    assert "lost_log" not in host.notices()


@pytest.mark.parametrize("first", [Played.serve, Played.follow])
def test_a_new_log_of_a_voter_whose_votes_were_heard_is_told_that_there_was_another(first: Callable[..., str]) -> None:
    host = Played()
    host.core.ended(first(host, "b", log_id="log-b"), host.now)
    link = host.serve("b", log_id="new", recovering=True)
    assert [welcome.another_log for welcome in host.sent(link, Welcome)] == [True]


def test_a_copied_log_is_refused_under_another_name() -> None:
    host = Played()
    host.follow("b")
    link = host.serve("c", log_id="log-b")
    assert host.taken(End) == [End(link, "log log-b is that of b: a copied folder?", True)]


def test_learners_come_and_go_with_new_logs_and_nobody_minds() -> None:
    learner = Played("l")
    learner.follow("b")
    learner.hear(learner.follow("c"), log_of("c", (P, 0, "x")))
    learner.core.ended(learner.serve("m", log_id="old"), learner.now)
    learner.serve("m", log_id="new")
    assert learner.taken(Replace) == []
    assert "lost_log" not in learner.notices()


def test_handshakes_and_acknowledgements_have_their_time() -> None:
    host = Played()
    host.core.source_opened("silent", host.now)
    host.core.follower_opened("deaf", "b", NONCE, None, host.now)
    slow = host.serve("c")
    host.originate(P, 0)
    host.tick(host.now + HANDSHAKE_S + 0.1)
    assert {end.link for end in host.taken(End)} == {"silent", "deaf"}
    host.tick(100.0 + ACK_S + 0.1)
    assert [end.link for end in host.taken(End)] == [slow]


def test_hosts_that_count_other_voters_say_so() -> None:
    host = Played()
    host.serve("b", voters=["a", "b"])
    host.follow("c", quorum=1)
    assert host.notices().count("other_voters") == 2


# --- committing ---


def test_a_voters_log_is_its_vote_and_its_acknowledgement_is_not() -> None:
    host = Played()
    host.originate(P, 0)
    link = host.serve("b")
    host.hear(link, Ack(1, [], []))
    assert host.taken(CommitThrough) == []
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    assert [command.position for command in host.taken(CommitThrough)] == [1]


def test_what_comes_is_stored_committed_and_acknowledged() -> None:
    host = Played("b")
    link = host.follow("c")
    host.hear(link, log_of("c", (P, 0, "x"), (P, 1, "x")))
    assert [command.position for command in host.taken(CommitThrough)] == [2]
    assert host.sent(link, Ack) == [Ack(2, [], [])]


def test_a_message_that_comes_twice_is_stored_once() -> None:
    host = Played("b")
    link = host.follow("c")
    message = log_of("c", (P, 0, "x"))
    host.hear(link, message)
    host.hear(link, message)
    assert len(host.taken(Store)) == 1


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_wall_clock_that_is_set_makes_nothing_older(step_s: float) -> None:
    host = Played()
    host.originate(P, 0)
    host.core.set_clock(step_s)
    host.now = 102.0
    (sent,) = host.sent(host.serve("b"), Entries)
    assert [entry.age_s for entry in sent.entries] == [2.0]


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """It would take as long as what all other tests of this process have left is large."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_long_log_of_which_retention_removes_much_is_no_long_work() -> None:
    host = Played()
    for number in range(3000):
        host.originate(PayloadId(f"0x{number:x}"), 0)
    began = time.thread_time()
    host.core.pruned(2500)
    took_s = time.thread_time() - began
    assert host.core.open == 500
    assert took_s < 0.05


def test_what_retention_has_removed_is_waited_for_no_more() -> None:
    host = Played()
    host.originate(P, 0)
    host.originate(Q, 0)
    host.core.pruned(1)
    assert host.core.open == 1
    host.hear(host.follow("b"), log_of("b", (Q, 0, "x")))
    assert [command.position for command in host.taken(CommitThrough)] == [2]
    assert host.core.open == 0


def test_followers_are_told_of_commits_after_what_they_were_sent() -> None:
    host = Played()
    link = host.serve("c")
    host.originate(P, 0)
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    (told,) = host.sent(link, Committed)
    assert [(place.payload_id, place.index) for place in told.places] == [(P, 0)]
    later = host.serve("l")
    assert [entry.committed for message in host.sent(later, Entries) for entry in message.entries] == [True]


def test_what_was_read_where_it_stood_before_it_gave_way_is_not_said_to_be_committed() -> None:
    host = Played()
    host.originate(P, 0)
    host.originate(Q, 0)
    host.slow_reads = []
    follower = host.serve("c")
    host.hear(host.follow("b"), log_of("b", (P, 0, "y"), (Q, 0, "x")))
    assert host.taken(Requeue) == [Requeue(P, 0)]
    host.disk.requeue(P, 0)
    host.feed()  # before the answer to the requeue
    assert host.core.committed == 2
    for command, records in host.slow_reads:
        host.core.read(command, records, host.now)
    host.play()
    sent = [entry for message in host.sent(follower, Entries) for entry in message.entries]
    assert [(entry.payload_id, entry.position, entry.committed) for entry in sent] == [(P, 1, False), (Q, 2, True)]


def test_who_brought_an_entry_is_not_sent_its_body_again() -> None:
    host = Played()
    to_b, to_c = host.serve("b"), host.serve("c")
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    assert [entry.body for message in host.sent(to_b, Entries) for entry in message.entries] == [None]
    assert [entry.body for message in host.sent(to_c, Entries) for entry in message.entries] == [b"x0"]


def test_so_it_is_when_the_log_is_read_before_the_answer_to_the_store() -> None:
    host = Played()
    to_b = host.serve("b")
    host.core.received(host.follow("b"), log_of("b", (P, 0, "x")), host.now)
    (store,) = (command for command in host.core.take_commands() if isinstance(command, Store))
    host.disk.append_from(store.entries, store.late)
    host.feed()
    host.play()
    assert [entry.body for message in host.sent(to_b, Entries) for entry in message.entries] == [None]


def test_a_follower_that_connects_again_is_sent_every_body() -> None:
    host = Played()
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    to_b = host.serve("b")
    assert [entry.body for message in host.sent(to_b, Entries) for entry in message.entries] == [b"x0"]


def test_a_voters_word_waits_for_the_entries_before_it() -> None:
    host = Played(voters=frozenset("abcde"))
    link = host.follow("b")
    message = log_of("b", (P, 0, "x"))
    host.core.received(link, message, host.now)
    (store,) = (command for command in host.core.take_commands() if isinstance(command, Store))
    place = message.entries[0]
    host.core.received(link, Committed([WirePlace(place.payload_id, place.index, place.prefix)]), host.now)
    assert host.core.committed == 0
    host._carry_out(store)
    host.play()
    assert host.core.committed == 1


def test_with_publish_what_waits_too_long_is_shown_and_not_said_to_be_committed() -> None:
    host = Played(publish_after_s=2.0)
    host.originate(P, 0)
    host.tick(101.9)
    assert host.taken(ShowThrough) == []
    host.tick(102.0)
    assert host.taken(ShowThrough) == [ShowThrough(1)]
    assert host.core.committed == 0
    assert host.core.open == 1
    assert host.core.oldest_open_since == 100.0


def test_a_branch_that_lost_gives_way_and_the_link_begins_again() -> None:
    host = Played()
    host.originate(P, 0, "mine")
    link = host.follow("b")
    host.hear(link, log_of("b", (P, 0, "x")))
    assert host.sent(link, Ack) == [Ack(1, [1], [])]
    other = host.follow("c")
    host.hear(other, log_of("c", (P, 0, "x")))
    assert host.taken(Replace) == [Replace(P, 0)]
    assert {end.link for end in host.taken(End)} == {link, other}
    assert "replaced" in host.notices()
    host.hear(host.follow("b"), log_of("b", (P, 0, "x"), committed=True))
    assert [record.body for record in host.disk.after(0, 10)] == [b"x0"]
    assert host.core.open == 0


def test_another_committed_body_for_what_is_committed_here_is_an_alarm() -> None:
    host = Played(voters=frozenset("a"))
    host.originate(P, 0, "mine")
    assert host.core.committed == 1
    learner = Played("l", voters=frozenset("b"))
    learner.hear(learner.follow("b"), log_of("b", (P, 0, "x"), committed=True))
    assert learner.core.conflicts == 0
    learner.hear(learner.follow("b"), log_of("b", (P, 0, "y"), committed=True))
    assert learner.core.conflicts == 1
    assert "conflict" in learner.notices()


def test_what_is_late_ends_its_payload_here_and_who_brought_it_is_told() -> None:
    host = Played()
    follower = host.serve("c")
    host.now = 200.0
    host.originate(Q, 0, born=200.0)
    host.hear(host.follow("b"), log_of("b", (Q, 0, "x")))
    assert host.core.committed == 1
    late = host.follow("c")
    (entry,) = log_of("c", (P, 0, "x")).entries
    host.hear(late, Entries([structs.replace(entry, age_s=50.0)]))
    assert host.disk.ends == {P: 0}
    assert host.sent(late, Ack) == [Ack(1, [], [1])]
    assert host.sent(follower, Closed) == []  # it is not dead while others may commit it
    assert "late" in host.notices()


def test_what_is_late_and_committed_is_taken_all_the_same() -> None:
    host = Played()
    host.now = 200.0
    host.originate(Q, 0, born=200.0)
    host.hear(host.follow("b"), log_of("b", (Q, 0, "x")))
    (entry,) = log_of("c", (P, 0, "x"), committed=True).entries
    host.hear(host.follow("c"), Entries([structs.replace(entry, age_s=50.0)]))
    assert host.core.committed == 2


# --- logs that were lost ---


def test_a_new_log_votes_when_a_majority_never_knew_another_and_its_links_begin_again() -> None:
    host = Played(recovering=True)
    assert list(host.core.missing) == ["b", "c"]
    link = host.follow("b")
    assert not host.core.recovering
    assert host.taken(End) == [End(link, "this host has its vote", False)]
    assert list(host.core.missing) == []


def test_a_lost_log_waits_for_all_others() -> None:
    host = Played(recovering=True)
    seen = []
    for peer, another_log in (("b", True), ("c", False)):
        host.follow(peer, another_log=another_log)
        seen.append(host.core.recovering)
    assert seen == [True, False]
    assert "lost_log" in host.notices()


def test_who_followed_another_log_of_a_host_says_so_while_it_has_no_vote() -> None:
    host = Played(known_logs={"b": "an older one"})
    (welcome,) = host.sent(host.serve("b", recovering=True), Welcome)
    assert welcome.another_log
    (welcome,) = host.sent(host.serve("b"), Welcome)
    assert not welcome.another_log
    (welcome,) = host.sent(host.serve("b", recovering=True), Welcome)
    assert not welcome.another_log


def test_an_end_that_rests_on_a_lost_vote_is_not_believed() -> None:
    host = Played(known_logs={"c": "log-c"})
    host.originate(P, 0)
    link = host.follow("b")
    host.serve("c", log_id="a new one", recovering=True)
    host.hear(link, Closed(P, 0, {"b": "log-b", "c": "log-c"}))  # it was long on its way
    assert host.taken(Close) == []
    host.hear(link, Closed(P, 0, {"b": "log-b", "c": "a new one"}))
    assert host.taken(Close) == [Close(P, 0)]


@pytest.mark.parametrize("logs", [None, {"b": "log-b", "c": "an older one"}])
def test_a_learner_fetches_again_what_a_voter_has_ended(logs: dict[str, str] | None) -> None:
    learner = Played("l", known_logs={"c": "log-c"})
    link = learner.follow("b")
    learner.hear(link, log_of("b", (P, 0, "x")))
    learner.hear(link, Closed(P, 0, logs))
    assert (learner.taken(Close), learner.taken(Replace)) == ([], [Replace(P, 0)])
    assert [end.link for end in learner.taken(End)] == [link]
    learner.hear(learner.follow("c"), log_of("c", (P, 0, "x"), committed=True))
    assert learner.core.committed > 0


def test_only_learners_are_told_of_ends_that_are_in_doubt() -> None:
    host = Played()
    host.core._votes.ended(P, 0)
    assert host.sent(host.serve("b"), Closed) == []
    assert host.sent(host.serve("l"), Closed) == [Closed(P, 0, None)]


def test_an_end_that_was_being_written_when_a_vote_was_lost_is_told_to_nobody() -> None:
    host = Played(known_logs={"b": "log-b", "c": "log-c"})
    host.originate(P, 0)
    follower = host.serve("b")
    host.hear(host.follow("b"), log_of("b", (P, 0, "y")))
    from_c = host.serve("c")
    host.core.received(from_c, Ack(1, [], [1]), host.now)
    (close,) = [command for command in host.core.take_commands() if isinstance(command, Close)]
    host.core.ended(from_c, host.now)
    host.serve("c", log_id="a new one", recovering=True)
    host.core.closed(close, host.now)
    host.play()
    assert host.sent(follower, Closed) == []


def test_the_cursor_of_a_host_without_a_vote_is_not_kept() -> None:
    host = Played()
    host.hear(host.follow("b", recovering=True), log_of("b", (P, 0, "x")))
    (store,) = host.taken(Store)
    assert store.cursor is None
    host.tick(101.0)
    assert host.taken(SaveCursor) == []


def test_cursors_are_saved_when_more_is_settled_and_nothing_takes_them_to_disk() -> None:
    host = Played()
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    host.tick(100.0 + SAVE_CURSOR_S / 2)
    assert host.taken(SaveCursor) == []
    host.tick(100.0 + 1.5 * SAVE_CURSOR_S)
    assert host.taken(SaveCursor) == [SaveCursor("b", Cursor("log-b", 1))]
    host.tick(100.0 + 3 * SAVE_CURSOR_S)
    assert host.taken(SaveCursor) == []


def test_a_cursor_is_saved_when_its_link_ends() -> None:
    host = Played()
    link = host.follow("b")
    host.hear(link, log_of("b", (P, 0, "x")))
    host.core.ended(link, 100.5)
    host.play()
    assert host.taken(SaveCursor) == [SaveCursor("b", Cursor("log-b", 1))]


def test_what_a_peer_did_not_hold_any_more_is_not_missed_again_when_links_begin_anew_with_a_vote() -> None:
    host = Played(recovering=True)
    host.core.follower_opened("link", "b", NONCE, None, host.now)
    host.core.received("link", host.welcome("b", "log-b", appended=9), host.now)
    host.core.received("link", Pruned(7), host.now)  # before the disk has the vote
    host.play()
    assert [end.reason for end in host.taken(End)] == ["this host has its vote"]
    assert host.taken(SaveCursor) == [SaveCursor("b", Cursor("log-b", 7))]
    host.hear(host.follow("b", cursor=Cursor("log-b", 7), appended=9), Pruned(7))
    assert host.notices().count("pruned") == 1


def test_a_log_that_was_set_back_becomes_another_one() -> None:
    host = Played()
    link = host.serve("b", cursor_log_id="log-a", cursor=5)
    assert host.taken(Renew) == [Renew()]
    assert host.sent(link, Refusal) == [Refusal("this host's log was set back; it begins anew")]


def test_a_learner_drops_what_only_a_lost_log_had() -> None:
    learner = Played("l")
    link = learner.follow("b")
    learner.hear(link, log_of("b", (P, 0, "x")))
    assert learner.core.open == 1
    learner.core.ended(link, learner.now)
    learner.follow("b", log_id="a new one")
    assert learner.taken(Replace) == [Replace(P, 0)]
    assert learner.core.open == 0


def test_what_a_learner_drops_is_dropped_though_the_disk_refused_at_first() -> None:
    learner = Played("l")
    first = learner.follow("b")
    learner.hear(first, log_of("b", (P, 0, "x")))
    learner.core.ended(first, learner.now)
    link = "to b again"
    learner.core.follower_opened(link, "b", NONCE, None, learner.now)
    learner.core.received(link, learner.welcome("b", "a new one"), learner.now)
    (replace,) = (command for command in learner.core.take_commands() if isinstance(command, Replace))
    learner.core.change_failed(replace, learner.now)
    assert replace in learner.core.take_commands()
    learner.core.change_failed(replace, learner.now)
    learner.play()
    assert learner.core.open == 0
    assert not learner.disk.entries


def test_a_learner_meets_a_lost_log_when_all_that_it_sent_is_here() -> None:
    learner = Played("l")
    link = learner.follow("b")
    learner.core.received(link, log_of("b", (P, 0, "x")), learner.now)
    (store,) = learner.core.take_commands()
    assert isinstance(store, Store)
    learner.core.ended(link, learner.now)
    learner.follow("b", log_id="a new one")
    assert "what its lost log sent is still on its way to the disk" in {end.reason for end in learner.taken(End)}
    learner._carry_out(store)
    learner.play()
    assert learner.core.open == 1
    learner.follow("b", log_id="a new one")
    assert learner.taken(Replace) == [Replace(P, 0)]
    assert learner.core.open == 0


# --- the rest ---


def test_what_is_undecided_is_sent_again_on_every_link() -> None:
    host = Played()
    host.originate(P, 0)
    host.originate(P, 1)
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    assert host.core.committed == 1
    link = host.serve("c", cursor_log_id="log-a", cursor=2)  # settled there: it has ended the payload, perhaps
    assert [entry.index for message in host.sent(link, Entries) for entry in message.entries] == [1]


def test_a_host_that_ended_a_branch_that_is_gone_does_not_end_the_one_that_took_its_place() -> None:
    host = Played()
    link = host.serve("b")
    other = host.serve("c")
    host.originate(P, 0)
    host.originate(P, 1)
    host.hear(other, Ack(2, [], [1]))  # c ended P at 0, before it heard that x0 is committed
    host.hear(host.follow("b"), log_of("b", (P, 0, "x")))
    assert host.core.committed == 1
    host.hear(link, Ack(2, [], [2]))
    assert host.taken(Close) == []  # c may vote for x1 yet
    host.hear(host.serve("c"), Ack(2, [], [2]))
    assert host.taken(Close) == [Close(P, 1)]


def test_followers_are_told_where_the_log_ends_though_its_last_entries_are_gone() -> None:
    host = Played()
    link = host.serve("b")
    host.originate(P, 0)
    host.originate(P, 1)
    host.core._votes.dead_word(P, 0)
    host.tick(100.1)
    assert host.taken(Close) == [Close(P, 0)]
    again = host.serve("c", cursor_log_id="log-a", cursor=0)
    assert host.sent(again, Passed) == [Passed(2)]
    assert host.sent(link, Passed) == []
    follower = Played("c")
    following = follower.follow("a", appended=2)
    follower.hear(following, Passed(2))
    link_state = follower.core.following(following)
    assert link_state is not None
    assert link_state.undoubted() == 2


def test_what_comes_while_younger_entries_give_way_gives_way_too() -> None:
    host = Played()
    host.now = 101.0
    host.originate(Q, 0, born=100.0)
    host.core.received(host.follow("b"), log_of("b", (P, 0, "x"), born=98.0), host.now)
    (store,) = (command for command in host.core.take_commands() if isinstance(command, Store))
    host._carry_out(store)
    (requeue,) = (command for command in host.core.take_commands() if isinstance(command, Requeue))
    assert requeue == Requeue(Q, 0)
    assert host.disk.append(R, 0, 1, "a", b"x0", 100.4, None)  # before the disk came to that
    host.feed()
    assert not [command for command in host.core.take_commands() if isinstance(command, Requeue)]
    host.disk.requeue(Q, 0)
    host.feed()
    host.core.requeued(requeue, host.now)
    assert Requeue(R, 0) in host.core.take_commands()


def test_retention_at_the_source_is_told_and_alarmed_once() -> None:
    host = Played("b")
    link = host.follow("a", appended=9)
    host.hear(link, Pruned(7))
    host.hear(link, Pruned(7))
    assert host.notices().count("pruned") == 1
    source = Played()
    source.core.pruned(3)
    assert source.sent(source.serve("b"), Pruned) == [Pruned(3)]


def test_a_gap_is_followed_from_the_start_again() -> None:
    host = Played("b")
    link = host.follow("c")
    message = log_of("c", (P, 0, "x"), (P, 1, "x"))
    host.hear(link, Entries(message.entries[1:]))
    assert host.taken(SaveCursor) == [SaveCursor("c", Cursor("log-c", 0))]
    assert [end.failed for end in host.taken(End)] == [True]
    assert "gap" in host.notices()


def test_a_body_that_was_left_out_and_is_not_here_comes_on_the_next_link() -> None:
    host = Played()
    link = host.follow("b")
    (entry,) = log_of("b", (P, 0, "x")).entries
    host.hear(link, Entries([structs.replace(entry, body=None)]))
    assert [(end.link, end.failed) for end in host.taken(End)] == [(link, True)]
    assert host.taken(SaveCursor) == []  # the peer's whole log is not needed for that
    host.hear(host.follow("b"), Entries([entry]))
    assert host.disk.at(P, 0) is not None


def test_states_are_passed_on_to_the_log() -> None:
    host = Played()
    host.hear(host.follow("b"), Settled(P, PayloadState.LANDED, "0x1"))
    assert host.taken(FollowState) == [FollowState(P, PayloadState.LANDED, "0x1")]


def test_with_more_open_than_can_be_counted_links_begin_again_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "MAX_OPEN", 4)
    host = Played()
    link = host.follow("b")
    for index in range(6):
        assert host.disk.append(P, index, 1, "a", f"x{index}".encode(), 100.0, None)
    host.feed()
    assert (host.core.open, host.core.seen) == (4, 4)
    host.hear(link, log_of("b", *((P, index, "x") for index in range(4))))
    assert host.core.committed >= 4
    assert "there is room for votes again" in {end.reason for end in host.taken(End)}


def test_messages_that_wait_for_the_disk_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_DEFERRED", 2)
    host = Played()
    link = host.follow("b")
    host.core.received(link, log_of("b", (P, 0, "x")), host.now)
    for _ in range(3):
        host.core.received(link, Committed([]), host.now)
    assert [command.reason for command in host.core.take_commands() if isinstance(command, End)] == [
        "the disk does not keep up"
    ]


def test_a_disk_that_refuses_ends_the_link_and_asks_for_changes_again() -> None:
    host = Played()
    link = host.follow("b")
    host.core.received(link, log_of("b", (P, 0, "x")), host.now)
    (store,) = (command for command in host.core.take_commands() if isinstance(command, Store))
    host.core.store_failed(store, "disk full", host.now)
    assert _ends(host.core.take_commands()) == [End(link, "disk full", True)]
    host.originate(P, 0, "mine")
    host.core._votes.word(log_place("x"))
    host.core.tick(host.now)
    (replace,) = (command for command in host.core.take_commands() if isinstance(command, Replace))
    host.core.change_failed(replace, host.now)
    assert replace in host.core.take_commands()


def _ends(commands: Iterable[Command]) -> list[End]:
    return [command for command in commands if isinstance(command, End)]


def log_place(text: str) -> Place:
    (entry,) = log_of("b", (P, 0, text)).entries
    return Place(entry.payload_id, entry.index, entry.prefix)
