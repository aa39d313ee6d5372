"""What a choice says of its sources: one word about each builder, and none for what is not its doing."""

import pytest

from appliance.engine import events as ev
from appliance.engine.events import EL
from appliance.engine.health import HealthMachine
from appliance.engine.reputation import after_all
from tests.engine import messages as m
from tests.engine.playbook import Playbook
from tests.engine.test_get_payload import ALPHA, BETA, LOCAL, building


def words(play: Playbook) -> list[tuple[str, bool]]:
    """What was said, the EL aside."""
    return [(each.upstream, each.ok) for each in play.all_of(ev.Produced) if each.upstream != EL]


def test_a_block_in_time_is_a_good_word_for_the_winner_and_for_the_others() -> None:
    play = building()
    play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert words(play) == []
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert words(play) == [("alpha", True), ("beta", True)]


def test_a_block_that_the_el_calls_invalid_is_one_bad_word_and_no_good_one() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict("INVALID"))
    play.answer(EL, LOCAL.answer())
    assert words(play) == [("alpha", False)]


def test_a_block_that_is_invalid_after_all_is_a_bad_word_on_balance() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.answer(EL, LOCAL.answer())
    assert words(play) == [("alpha", True)]
    play.ask(m.new_payload(ALPHA))
    play.answer(EL, m.verdict("INVALID", "bad root"))
    assert words(play)[1:] == [("alpha", False), ("alpha", False)]
    assert play.all_of(ev.Produced)[-1].reason == "INVALID after all: l2 said INVALID to op-node: bad root"


def test_a_builder_whose_blocks_are_invalid_after_all_falls_ill() -> None:
    """Its good words, slot after slot, would have kept it well for ever."""
    machine = HealthMachine(["alpha"], 10.0)
    for now in range(2):
        assert not machine.unhealthy()
        machine.produced("alpha", ok=True, reason="", now=now)
        for word in after_all("alpha", "bad root", completed=False):
            assert isinstance(word, ev.Produced)
            machine.produced(word.upstream, ok=word.ok, reason=word.reason, now=now)
    assert machine.unhealthy() == {"alpha"}


def test_what_the_el_filled_in_itself_is_not_held_against_the_builder() -> None:
    assert after_all("alpha", "bad root", completed=True) == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (m.forkchoice_answer(None), []),
        (m.forkchoice_answer(None, "SYNCING"), [("alpha", False)]),
        (m.error(), [("alpha", False)]),
    ],
)
def test_a_builder_that_only_declines_is_well(answer: bytes, expected: list[tuple[str, bool]], late: bool) -> None:
    """So answers a builder listener that builds for another sequencer: that must not cost the leader its health."""
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    if not late:
        play.answer("alpha", answer)
    ticket = play.ask(m.get_payload())
    if late:
        play.answer("alpha", answer)
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    assert words(play) == expected


def test_who_declined_once_and_is_silent_when_asked_again_is_not() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("alpha", m.forkchoice_answer(None))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.fail("alpha")
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert words(play) == [("alpha", False)]


@pytest.mark.parametrize("status", ["SYNCING", "ACCEPTED"])
def test_an_el_that_does_not_know_says_nothing_about_the_builder(status: str) -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict(status))
    play.answer(EL, LOCAL.answer())
    assert words(play) == []


def test_an_el_that_gives_no_verdict_says_nothing_about_the_builder() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.fail_verdict()
    play.answer(EL, LOCAL.answer())
    assert words(play) == []


def test_an_el_that_judges_too_slowly_says_nothing_about_the_builder() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.answer(EL, LOCAL.answer())
    play.pass_time(1.0)
    assert words(play) == []


def test_a_block_on_another_parent_is_a_bad_word() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", m.Block("stray", parent="0x" + "bb" * 32).answer())
    assert words(play) == [("alpha", False)]


@pytest.mark.parametrize("comes", [True, False])
def test_late_is_one_bad_word_whether_the_block_comes_or_not(comes: bool) -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.pass_time(1.0)
    assert words(play) == [("alpha", False)]
    if comes:
        play.answer("alpha", ALPHA.answer())
    else:
        play.fail("alpha")
    assert words(play) == [("alpha", False)]


@pytest.mark.parametrize(("seconds", "ok"), [(0.5, True), (1.5, False)])
def test_who_is_not_waited_for_has_the_same_time(seconds: float, ok: bool) -> None:
    play = building()
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.pass_time(seconds)
    play.answer("beta", BETA.answer())
    assert words(play) == [("alpha", True), ("beta", ok)]


# --- what the choice makes of it ---


def ill(play: Playbook, *builders: str, ignored: tuple[str, ...] = ()) -> Playbook:
    play.tell(ev.HealthChanged(frozenset(builders), frozenset(ignored)))
    return play


def test_an_ill_builder_is_not_waited_for() -> None:
    play = ill(building(("alpha",)), "alpha")
    ticket = play.ask(m.get_payload())
    assert len(play.calls("alpha")) == 1, "it is asked all the same, so that it can come back"
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    play.answer("alpha", ALPHA.answer())
    assert words(play) == [("alpha", True)]


def test_a_healthy_builder_further_down_the_list_is_waited_for() -> None:
    play = ill(building(), "alpha")
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None
    play.answer("alpha", ALPHA.answer())
    assert play.validating() is None, "an ill builder's block does not even cost a validation"
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == BETA.answer()


def test_an_ill_builder_is_better_than_no_block() -> None:
    play = ill(building(("alpha",)), "alpha")
    ticket = play.ask(m.get_payload())
    play.fail(EL)
    assert play.reply_to(ticket) is None
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_an_ill_builders_block_keeps_the_el_free_for_others() -> None:
    play = ill(building(), "alpha")
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    assert play.validating() is None
    play.answer("beta", BETA.answer())
    assert play.validating() == BETA.hash
    play.judge(m.verdict("INVALID"))
    assert play.validating() is None, "the EL's own is still to come"
    play.fail(EL)
    assert play.validating() == ALPHA.hash
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_without_any_other_block_an_ill_builders_is_validated_after_the_deadline() -> None:
    play = ill(building(("alpha",)), "alpha")
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.pass_time(1.0)
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_what_an_ill_builder_promised_subscribers_is_kept() -> None:
    promised = m.Block("alpha's", transactions=("0x02aa",))
    play = ill(building(("alpha",)), "alpha")
    play.assembled = promised.assembled()
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None
    play.judge(m.verdict())
    assert b"0x02aa" in play.body_for(ticket)


def test_ignored_builders_have_no_part_in_the_chain() -> None:
    play = ill(Playbook(), "alpha", ignored=("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert [order.builder for order in play.all_of(ev.SendInOrder)] == ["beta"]
    play.ask(m.forkchoice())
    play.ask(m.new_payload(LOCAL))
    play.ask(m.request("miner_setExtra", ["0x01"]))
    skipped = [copy.skip for copy in play.all_of(ev.Copy)]
    assert skipped == [frozenset({"alpha"}), frozenset({"alpha"}), frozenset()]
    play.answer(EL, m.forkchoice_answer())
    play.answer(EL, m.verdict())
    play.answer(EL, m.result(True))
    play.answer("beta", m.forkchoice_answer("0x0b"))
    play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert [announce.skip for announce in play.all_of(ev.Announce)] == [frozenset({"alpha"})]
