"""Whether a host follows so many voters that it sees what is committed; when that is said, and in which words."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.replication.reach import PeerLink, Reach
from appliance.replication.settings import Peer, ReplicationSettings

GRACE_S = 3.0


def settings(peers: str, **keys: object) -> ReplicationSettings:
    own = ReplicationSettings("own", b"", tuple(Peer(name, "ws://h") for name in peers), reach_grace_s=GRACE_S)
    return replace(own, **keys)  # type: ignore[arg-type]


def links(text: str) -> list[PeerLink]:
    """A small letter is a peer that is away, a capital one that is followed; after it "-" for one without a vote."""
    found = []
    for at, name in enumerate(text):
        if name != "-":
            votes = not text.startswith("-", at + 1)
            found.append(PeerLink(name.lower(), name.isupper(), name.isupper() and votes))
    return found


def is_enough(own: ReplicationSettings, text: str, *, votes: bool = True) -> bool:
    reach = Reach(own)
    for now in (0.0, 9.0):
        reach.look(links(text), now, votes=votes and not own.follow_only)
    return reach.short_s == 0.0


@pytest.mark.parametrize(
    ("peers", "well", "cut_off"),
    [
        ("b", ["B"], ["b", "B-"]),
        ("bc", ["BC", "Bc", "bC", "B-C"], ["bc", "B-c", "B-C-"]),
        ("bcd", ["BCD", "BCd"], ["Bcd", "bcd", "BC-d"]),
        ("bcde", ["BCde", "bcDE"], ["Bcde", "bcde"]),
    ],
)
def test_a_voter_needs_a_quorum_counting_itself(peers: str, well: list[str], cut_off: list[str]) -> None:
    own = settings(peers)
    assert [text for text in well if not is_enough(own, text)] == []
    assert [text for text in cut_off if is_enough(own, text)] == []


def test_without_its_own_vote_it_needs_one_more() -> None:
    own = settings("bc")
    assert is_enough(own, "BC", votes=False)
    assert not is_enough(own, "Bc", votes=False)


def test_min_acks_says_how_many_and_at_least_one() -> None:
    assert is_enough(settings("bcde", min_acks=1), "Bcde")
    assert not is_enough(settings("bcde", min_acks=3), "BCde")
    assert is_enough(settings("bc", min_acks=0), "Bc")
    assert not is_enough(settings("bc", min_acks=0), "bc")


def test_a_learner_needs_one_voter_whose_word_it_takes() -> None:
    own = settings("bc", follow_only=True)
    assert is_enough(own, "Bc")
    assert is_enough(own, "B-c")
    assert not is_enough(own, "bc")


def test_nothing_is_said_before_the_grace_is_over_and_nothing_after_the_return() -> None:
    reach = Reach(settings("bc"))
    lasted = []
    for now, text in [(10.0, "Bc"), (11.0, "bc"), (12.5, "bc"), (14.0, "bc"), (14.5, "bc"), (15.0, "Bc")]:
        reach.look(links(text), now, votes=True)
        lasted.append((reach.short_s, reach.trouble is not None))
    assert lasted == [(0.0, False), (0.0, False), (1.5, False), (3.0, False), (3.5, True), (0.0, False)]


def test_a_redial_begins_the_grace_anew() -> None:
    reach = Reach(settings("bc"))
    for now, text in enumerate(["bc", "bc", "Bc", "bc", "bc", "bc", "bC"] * 20):
        reach.look(links(text), float(now), votes=True)
        assert reach.trouble is None


def trouble(own: ReplicationSettings, *found: PeerLink, votes: bool = True) -> str | None:
    reach = Reach(own)
    for now in (0.0, GRACE_S + 1):
        reach.look(found, now, votes=votes and not own.follow_only)
    return reach.trouble


def test_it_says_who_is_missing_and_why() -> None:
    refused = PeerLink("b", followed=False, last_error="refused: host_id own is not among the peers here")
    assert trouble(settings("bc"), refused, PeerLink("c", followed=False)) == (
        "1 of 3 voters with this host, 2 needed ("
        "b: refused: host_id own is not among the peers here; c: no answer yet): "
        "subscribers see nothing new"
    )
    assert trouble(settings("bc", follow_only=True), refused, PeerLink("c", followed=False)) == (
        "0 of 2 voters reached, 1 needed (b: refused: host_id own is not among the peers here; c: no answer yet): "
        "subscribers see nothing new"
    )


def test_who_is_followed_and_does_not_count_is_named_too() -> None:
    without = PeerLink("b", followed=True, last_error=None)
    away = PeerLink("c", followed=False, last_error="connection refused")
    assert trouble(settings("bc"), without, away, votes=False) == (
        "0 of 3 voters reached, 2 needed (b: no vote yet; c: connection refused; own: no vote yet): "
        "subscribers may see nothing new"
    )


@pytest.mark.parametrize(
    ("keys", "text", "consequence"),
    [
        ({"publish_on_timeout": True}, "bcde", "subscribers see nothing of what other hosts have"),
        ({"publish_on_timeout": True}, "Bcde", "what subscribers see has no majority"),
        ({"min_acks": 0}, "bcde", "subscribers see nothing of what other hosts have"),
        ({"publish_on_timeout": True, "follow_only": True}, "bcde", "subscribers see nothing new"),
        ({}, "Bcde", "subscribers may see nothing new"),
    ],
)
def test_it_says_what_that_means_for_subscribers(keys: dict[str, object], text: str, consequence: str) -> None:
    assert str(trouble(settings("bcde", **keys), *links(text))).endswith(f"): {consequence}")


LINKS = st.lists(st.sampled_from(["bc", "Bc", "bC", "BC", "B-c", "B-C-"]), max_size=60)


@given(LINKS, st.booleans())
def test_it_is_said_exactly_where_every_look_of_the_grace_found_too_few(looks: list[str], learner: bool) -> None:
    own = settings("bc", follow_only=learner)
    reach, short = Reach(own), 0
    for now, text in enumerate(looks):
        reach.look(links(text), float(now), votes=not learner)
        short = 0 if is_enough(own, text) else short + 1
        assert (reach.trouble is not None) is (short - 1 > GRACE_S)
