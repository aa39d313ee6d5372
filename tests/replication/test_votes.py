"""Votes counted: what is committed, what lost, what is dead, and what nothing follows from yet."""

import pytest

from appliance.domain.payloads import PayloadId
from appliance.replication.places import Place
from appliance.replication.votes import MAX_ENDS, MAX_SAID, Dead, Ended, Lost, Outcome, Votes, Won

P = PayloadId("0x01")
ABC = frozenset("abc")
ABCDE = frozenset("abcde")


def place(index: int, branch: str = "x") -> Place:
    return Place(P, index, f"{branch}{index}".encode())


def votes_of_a(*held: Place, voters: frozenset[str] = ABC) -> Votes:
    votes = Votes("a", voters, len(voters) // 2 + 1)
    for each in held:
        votes.held(each)
    assert votes.judge() == [] or len(voters) == 1
    return votes


def vote(votes: Votes, host: str, *places: Place, fixed: bool = True) -> list[Outcome]:
    for each in places:
        votes.voted(host, each, fixed=fixed)
    return votes.judge()


def test_a_host_alone_commits_what_it_holds() -> None:
    votes = Votes("a", frozenset("a"), 1)
    votes.held(place(0))
    assert votes.judge() == [Won((P, 0))]


def test_a_majority_commits() -> None:
    votes = votes_of_a(place(0), place(1))
    assert vote(votes, "b", place(0)) == [Won((P, 0))]
    assert vote(votes, "c", place(1)) == [Won((P, 1))]


def test_in_index_order_only() -> None:
    votes = votes_of_a(place(0), place(1))
    assert vote(votes, "b", place(1)) == []
    assert vote(votes, "b", place(0)) == [Won((P, 0)), Won((P, 1))]


def test_what_a_voter_says_without_end_is_not_kept_without_end() -> None:
    votes = votes_of_a(place(0))
    for index in range(1, 3 * MAX_SAID):
        votes.word(place(index))
        votes.ended_at("b", place(index))
    assert len(votes._races[P].words) == MAX_SAID
    assert len(votes._ends["b"][P]) == MAX_SAID
    votes.word(place(0))  # for what is here there is room
    assert votes.judge()[0] == Won((P, 0))


def test_learners_and_strangers_do_not_count() -> None:
    votes = votes_of_a(place(0))
    assert vote(votes, "learner", place(0)) == []
    votes.ended_at("learner", place(0))
    assert votes.judge() == []


def test_without_a_vote_of_its_own_a_host_needs_a_majority_of_the_others() -> None:
    votes = Votes(None, ABC, 2)
    votes.held(place(0))
    assert vote(votes, "b", place(0)) == []
    assert vote(votes, "c", place(0)) == [Won((P, 0))]


def test_its_votes_count_once_it_may_vote() -> None:
    votes = Votes(None, ABC, 2)
    votes.held(place(0))
    vote(votes, "b", place(0))
    votes.may_vote("a")
    assert votes.judge() == [Won((P, 0))]


def test_a_learner_takes_the_voters_word_and_does_not_count() -> None:
    votes = Votes(None, ABC, 2, counts=False)
    votes.held(place(0))
    assert vote(votes, "b", place(0)) + vote(votes, "c", place(0)) == []
    votes.word(place(0))
    assert votes.judge() == [Won((P, 0))]


def test_a_committed_branch_that_is_not_held_here_is_fetched() -> None:
    votes = votes_of_a(place(0), place(1))
    vote(votes, "b", place(0), place(1, "y"))
    assert vote(votes, "c", place(1, "y")) == [Lost(P, 1)]
    votes.removed(P, 1)
    votes.committed((P, 0))
    votes.held(place(1, "y"))
    assert vote(votes, "b", place(1, "y")) == [Won((P, 1))]


def test_a_voters_word_is_enough_to_lose() -> None:
    votes = votes_of_a(place(0))
    votes.word(place(0, "y"))
    assert votes.judge() == [Lost(P, 0)]


def test_three_bodies_of_three_hosts_are_dead() -> None:
    votes = votes_of_a(place(0))
    assert vote(votes, "b", place(0, "y")) == []
    assert vote(votes, "c", place(0, "z")) == [Dead(P, 0)]


def test_two_of_two_are_dead_when_there_are_four() -> None:
    votes = votes_of_a(place(0), voters=frozenset("abcd"))
    assert vote(votes, "b", place(0)) + vote(votes, "c", place(0, "y")) == []
    assert vote(votes, "d", place(0, "y")) == [Dead(P, 0)]


def test_while_one_has_not_voted_nothing_is_dead() -> None:
    votes = votes_of_a(place(0), voters=ABCDE)
    assert vote(votes, "b", place(0)) + vote(votes, "c", place(0, "y")) + vote(votes, "d", place(0, "y")) == []


def test_a_vote_on_a_branch_that_parted_earlier_leaves_the_host_free() -> None:
    votes = votes_of_a(place(0), place(1))
    vote(votes, "b", place(0))
    vote(votes, "b", place(1, "y"))
    # c holds another body at 0, where x is committed: it will get that one, and vote at 1 again.
    assert vote(votes, "c", place(1, "z"), fixed=False) == []
    assert vote(votes, "c", place(1, "z")) == [Dead(P, 1)]


def test_two_ends_of_three_are_dead() -> None:
    votes = votes_of_a(place(0))
    votes.ended_at("b", place(0))
    assert votes.judge() == []
    votes.ended_at("c", place(0))
    assert votes.judge() == [Dead(P, 0)]


def test_an_end_before_a_committed_index_is_no_vote_there() -> None:
    votes = votes_of_a(place(0), place(1))
    vote(votes, "b", place(0))
    votes.ended_at("c", place(0))  # it lost: x0 is committed, and c will go on from it
    votes.ended_at("b", place(1))
    assert votes.judge() == []
    votes.ended_at("c", place(1))
    assert votes.judge() == [Dead(P, 1)]


def test_what_this_host_ended_is_settled_when_nothing_can_be_committed_there() -> None:
    votes = Votes("a", ABC, 2)
    assert votes.ended(P, 0)
    assert not votes.ended(P, 0)
    votes.refused(P)
    assert votes.is_open((P, 0))
    assert vote(votes, "b", place(0)) == []
    assert votes.own_ends() == [(P, 0, False)]
    votes.dead_word(P, 0)  # by b, which knows that c ended it too
    assert votes.judge() == [Ended(P, 0)]
    assert not votes.is_open((P, 0))
    assert votes.own_ends() == [(P, 0, True)]


def test_an_end_on_another_branch_leaves_the_host_free() -> None:
    votes = votes_of_a(place(0), place(1))
    vote(votes, "b", place(0))
    votes.ended_at("b", place(1))
    votes.ended_at("c", place(1, "y"))  # behind y at 0, where x is committed: c will get that, and vote at 1 again
    assert votes.judge() == []
    assert not votes.is_contested((P, 0))
    votes.ended_at("c", place(1))
    assert votes.judge() == [Dead(P, 1)]


def test_ends_of_a_branch_that_was_cut_off_are_forgotten() -> None:
    votes = votes_of_a(place(0), place(1))
    votes.ended_at("c", place(1))
    votes.removed(P, 1)
    assert not votes._ends["c"][P]


def test_what_this_host_ended_and_others_committed_is_fetched() -> None:
    votes = Votes("a", ABC, 2)
    votes.ended(P, 0)
    votes.refused(P)
    vote(votes, "b", place(0))
    assert vote(votes, "c", place(0)) == [Lost(P, 0)]
    votes.removed(P, 0)
    votes.reopened(P, 0)
    assert votes.own_ends() == []


def test_a_voters_word_that_it_is_dead_is_enough() -> None:
    votes = votes_of_a(place(0))
    votes.dead_word(P, 0)
    assert votes.judge() == [Dead(P, 0)]


def test_a_log_that_was_lost_takes_its_votes_with_it() -> None:
    votes = votes_of_a(place(0), place(1), voters=ABCDE)
    vote(votes, "b", place(0))
    votes.ended_at("b", place(1))
    votes.forget("b")
    assert vote(votes, "c", place(0)) == []
    assert vote(votes, "b", place(0)) == [Won((P, 0))]


def test_a_host_that_lost_its_log_gives_way_to_what_a_voter_has_alone() -> None:
    votes = Votes(None, ABC, 2)
    votes.yields = True
    votes.held(place(0, "own"))
    assert vote(votes, "b", place(0)) == [Lost(P, 0)]


def test_it_gives_way_also_behind_what_is_the_same_and_waits_for_its_vote() -> None:
    votes = Votes(None, frozenset("ab"), 2)
    votes.yields = True
    votes.held(place(0))
    votes.held(place(1, "own"))
    assert vote(votes, "b", place(0)) == []
    assert vote(votes, "b", place(1)) == [Lost(P, 1)]


def test_but_not_where_another_voter_has_the_same() -> None:
    votes = Votes(None, ABC, 2)
    votes.yields = True
    votes.held(place(0))
    vote(votes, "c", place(0))
    assert vote(votes, "b", place(0, "y")) == []


def test_what_is_committed_is_forgotten_and_what_is_said_of_it_later_ignored() -> None:
    votes = votes_of_a(place(0))
    assert votes.is_open((P, 0))
    vote(votes, "b", place(0))
    votes.committed((P, 0))
    assert not votes.is_open((P, 0))
    votes.word(place(0, "y"))
    assert vote(votes, "c", place(0, "y")) == []


def test_contested_is_where_a_voter_has_something_else() -> None:
    votes = votes_of_a(place(0), place(1))
    assert not votes.is_contested((P, 0))
    vote(votes, "b", place(0, "y"))
    assert votes.is_contested((P, 0))
    assert not votes.is_contested((P, 1))
    votes.ended_at("c", place(1))
    assert votes.is_contested((P, 1))
    assert not votes.is_contested((PayloadId("0x02"), 0))


@pytest.mark.parametrize("kind", ["own", "other", "dead"])
def test_ends_are_bounded(kind: str) -> None:
    votes = Votes("a", ABC, 2)
    for number in range(MAX_ENDS + 10):
        payload_id = PayloadId(f"0x{number:x}")
        if kind == "own":
            votes.ended(payload_id, 0)
        elif kind == "other":
            votes.ended_at("b", Place(payload_id, 0, b"x0"))
        else:
            votes.dead_word(payload_id, 0)
    kept = {"own": votes._own_ends, "other": votes._ends.get("b"), "dead": votes._dead}[kind]
    assert kept is not None
    assert len(kept) == MAX_ENDS
    assert PayloadId("0x0") not in kept


def test_what_was_decided_and_moved_does_not_hold_what_is_behind_it_once_the_commit_point_has_passed() -> None:
    votes = votes_of_a(place(0), place(1))
    assert vote(votes, "b", place(0)) == [Won((P, 0))]
    votes.forget("b")
    for moved in (place(0), place(1)):
        votes.held(moved)
    assert votes.judge() == []
    votes.committed((P, 0))
    assert vote(votes, "c", place(1)) == [Won((P, 1))]
