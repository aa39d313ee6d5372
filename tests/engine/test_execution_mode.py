"""The execution mode as a playbook: what builders get and whose block op-node gets, in each and across a switch."""

import json

import pytest

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import PayloadSource
from appliance.engine import events as ev
from appliance.engine.decisions import Decision
from appliance.engine.events import EL, Announce, Copy, Send, SendInOrder
from tests.engine import messages as m
from tests.engine.playbook import Playbook
from tests.engine.test_get_payload import ALPHA, BETA, LOCAL, returned

ENABLED, DRY_RUN, DISABLED = ExecutionMode.ENABLED, ExecutionMode.DRY_RUN, ExecutionMode.DISABLED


def building(mode: ExecutionMode = ENABLED, builders: tuple[str, ...] = ("alpha", "beta")) -> Playbook:
    """A build in this mode that everyone who was asked has joined."""
    play = Playbook(builders, mode=mode)
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    for number, builder in enumerate(builders):
        if play.calls(builder):
            play.answer(builder, m.forkchoice_answer(f"0x0{number}"))
    play.new()
    return play


def to_builders(play: Playbook) -> list[ev.Command]:
    """Everything that would reach a builder."""
    return [
        command
        for command in play.log
        if isinstance(command, SendInOrder | Copy | Announce) or (isinstance(command, Send) and command.upstream != EL)
    ]


def decision(play: Playbook) -> Decision:
    (decided,) = play.all_of(ev.Decided)
    return decided.decision


# --- disabled ---


def test_disabled_everything_goes_to_the_el_alone() -> None:
    play = building(DISABLED)
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    for body in (m.forkchoice(), m.new_payload(LOCAL), m.request("miner_setExtra", []), m.request("eth_x", [])):
        play.ask(body)
    assert to_builders(play) == []
    assert returned(play).context is PayloadSource.L2
    assert decision(play).mode is DISABLED


def test_disabled_starts_no_flashblock_stream() -> None:
    play = building(DISABLED)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    told = (ev.BuildStarted, ev.BuildConfirmed, ev.BuilderJoined, ev.Seal, ev.PayloadReturned)
    assert not [command for command in play.log if isinstance(command, told)]
    assert play.all_of(ev.HeadChanged) == [ev.HeadChanged(m.PARENT, None)], "what was shown before may still land"


def test_disabled_asked_twice_the_el_is_asked_once_and_the_block_is_the_same() -> None:
    play = building(DISABLED)
    play.ask(m.get_payload(identifier=1))
    play.answer(EL, LOCAL.answer())
    second = play.ask(m.get_payload(identifier=2))
    assert json.loads(play.body_for(second)) == json.loads(LOCAL.answer(identifier=2))


def test_switched_to_disabled_while_building_the_stream_ends_and_the_els_block_comes() -> None:
    play = building(ENABLED)
    play.assembled = ALPHA.assembled(validated=True)
    play.switch(DISABLED)
    assert play.new() == [ev.BuildAbandoned(play.all_of(ev.BuildStarted)[0].build.build_id)]
    ticket = play.ask(m.get_payload())
    assert [type(each) for each in play.new()] == [ev.Seal, Send], "the fence, and the EL alone"
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


def test_switched_to_disabled_before_the_answers_to_the_order_nobody_joins() -> None:
    play = Playbook()
    play.ask(m.build())
    play.switch(DISABLED)
    play.answer("alpha", m.forkchoice_answer("0x00"))
    play.fail("beta")
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert not play.all_of(ev.BuilderJoined)
    assert not play.all_of(ev.BuildConfirmed)
    assert play.all_of(ev.BuilderAbsent) == [], "it is not the builder's fault"


def test_switched_to_disabled_while_choosing_a_valid_builders_block_is_not_returned() -> None:
    play = building(ENABLED)
    ticket = play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    play.switch(DISABLED)
    assert play.reply_to(ticket) is None, "the EL has not answered yet"
    play.answer("alpha", ALPHA.answer())
    assert play.validations() == [], "what comes later is not even judged"
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    why = {each.source: each.why for each in decision(play).candidates}
    assert why["beta"] == why["alpha"] == why[EL] == "builders are switched off"


def test_switched_to_disabled_while_choosing_the_els_block_that_is_there_goes_out_at_once() -> None:
    play = building(ENABLED)
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("alpha", ALPHA.answer())
    assert play.validating() == ALPHA.hash
    play.switch(DISABLED)
    assert play.body_for(ticket) == LOCAL.answer()
    assert play.all_of(Announce) == []
    play.judge(m.verdict())
    assert len(play.all_of(ev.BlockReturned)) == 1, "the verdict comes too late"


def test_switched_to_disabled_a_builders_block_that_was_answered_is_not_answered_again() -> None:
    play = building(ENABLED)
    first = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(first) == ALPHA.answer()
    play.answer(EL, LOCAL.answer())
    play.switch(DISABLED)
    play.assembled = ALPHA.assembled(validated=True)
    second = play.ask(m.get_payload(identifier=2))
    play.answer(EL, LOCAL.answer(identifier=2))
    assert play.body_for(second) == LOCAL.answer(identifier=2)


def test_switched_to_disabled_the_els_own_answer_stays_the_answer() -> None:
    play = building(ENABLED)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.pass_time(1.0)
    play.switch(DISABLED)
    again = play.ask(m.get_payload(identifier=2))
    assert json.loads(play.body_for(again)) == json.loads(LOCAL.answer(identifier=2))


def test_switched_to_disabled_with_an_el_that_fails_op_node_gets_an_error_and_no_builders_block() -> None:
    play = building(ENABLED)
    ticket = play.ask(m.get_payload())
    play.fail(EL)
    play.answer("alpha", ALPHA.answer())
    assert play.validating() == ALPHA.hash
    play.switch(DISABLED)
    assert "error" in json.loads(play.body_for(ticket))


def test_switched_back_on_the_next_build_has_builders_again() -> None:
    play = building(DISABLED)
    play.switch(ENABLED)
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer(), "the build that runs stays the EL's"
    assert len(play.all_of(Announce)) == 1, "but builders learn of its block, to build on it"
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    assert len(play.calls("alpha")) == len(play.calls("beta")) == 1
    assert len(play.all_of(ev.BuildStarted)) == 1


def test_the_same_order_after_the_switch_does_not_ask_builders_again() -> None:
    play = building(ENABLED)
    play.switch(DISABLED)
    play.ask(m.build())
    assert play.calls("alpha") == play.calls("beta") == []


@pytest.mark.parametrize("mode", list(ExecutionMode))
def test_the_same_mode_again_changes_nothing(mode: ExecutionMode) -> None:
    play = building(mode)
    play.switch(mode)
    assert play.new() == []
    assert play.machine.mode is mode


# --- dry run ---


def test_in_a_dry_run_builders_get_everything_and_the_els_block_is_returned_at_once() -> None:
    play = building(DRY_RUN)
    ticket = play.ask(m.get_payload())
    assert len(play.calls("alpha")) == len(play.calls("beta")) == 1
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer(), "op-node does not wait for a rehearsal"
    assert [announce.block.block_hash for announce in play.all_of(Announce)] == [LOCAL.hash]
    assert play.all_of(ev.Decided) == []
    play.answer("alpha", ALPHA.answer())
    assert play.validating() == ALPHA.hash
    play.judge(m.verdict())
    assert (decision(play).returned, decision(play).preferred) == (EL, "alpha")
    assert len(play.all_of(ev.BlockReturned)) == 1


def test_in_a_dry_run_a_valid_builders_block_waits_for_the_els() -> None:
    play = building(DRY_RUN)
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.pass_time(5.0)
    assert play.reply_to(ticket) is None
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    assert decision(play).preferred == "alpha"


def test_a_dry_run_ends_at_the_deadline() -> None:
    play = building(DRY_RUN)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert play.all_of(ev.Decided) == []
    play.pass_time(1.0)
    assert decision(play).preferred == "beta"
    assert {each.source: each.why for each in decision(play).candidates}["alpha"] == "still pending at the deadline"


def test_in_a_dry_run_without_the_els_block_no_builders_block_takes_its_place() -> None:
    play = building(DRY_RUN)
    ticket = play.ask(m.get_payload(identifier="x"))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.answer(EL, m.error(identifier="x"))
    assert play.body_for(ticket) == m.error(identifier="x")
    assert decision(play).returned is None


def test_in_a_dry_run_a_builder_that_joins_after_the_reply_is_still_asked() -> None:
    play = Playbook(("alpha",), mode=DRY_RUN)
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("alpha", m.forkchoice_answer("0x00"))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert decision(play).preferred == "alpha"


def test_in_a_dry_run_no_flashblock_is_shown() -> None:
    play = building(DRY_RUN)
    play.assembled = ALPHA.assembled(validated=True)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    told = (ev.BuildStarted, ev.BuildConfirmed, ev.BuilderJoined, ev.Seal, ev.PayloadReturned)
    assert not [command for command in play.log if isinstance(command, told)]


def test_in_a_dry_run_asked_again_the_same_block_is_answered() -> None:
    play = building(DRY_RUN)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    again = play.ask(m.get_payload(identifier=2))
    assert json.loads(play.body_for(again)) == json.loads(LOCAL.answer(identifier=2))


def test_switched_off_in_the_middle_of_a_rehearsal_it_ends() -> None:
    play = building(DRY_RUN)
    play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.switch(DISABLED)
    assert (decision(play).returned, decision(play).preferred) == (EL, EL)
    play.answer("alpha", ALPHA.answer())
    assert play.validations() == []
    assert len(play.all_of(ev.BlockReturned)) == 1


def test_a_choice_that_began_enabled_ends_enabled_when_a_dry_run_begins() -> None:
    play = building(ENABLED)
    ticket = play.ask(m.get_payload())
    play.switch(DRY_RUN)
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    assert len(play.all_of(ev.BuildStarted)) == 1, "the next build is a dry run"


def test_a_dry_run_begun_while_a_build_runs_abandons_its_stream_with_the_next_build_only() -> None:
    play = building(ENABLED)
    play.switch(DRY_RUN)
    assert play.new() == []
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    assert len(play.all_of(ev.BuildAbandoned)) == 1


# --- what is told of a decision ---


def test_a_decision_names_every_candidate_with_its_numbers_and_why() -> None:
    play = building(ENABLED)
    play.ask(m.get_payload())
    play.now += 0.01
    play.answer("alpha", ALPHA.answer())
    play.now += 0.02
    play.judge(m.verdict("INVALID", "bad state root"))
    play.answer("beta", BETA.answer())
    play.now += 0.03
    play.judge(m.verdict())
    alpha, beta, local = decision(play).candidates
    assert (alpha.source, alpha.payload_id, alpha.verdict) == ("alpha", "0x00", "INVALID")
    assert alpha.why == "l2 said INVALID: bad state root"
    assert alpha.arrived_s == pytest.approx(0.01)
    assert alpha.validation_s == pytest.approx(0.02)
    assert alpha.facts is not None
    assert (alpha.facts.block_hash, alpha.facts.gas_used) == (ALPHA.hash, ALPHA.gas_used)
    assert (alpha.facts.transactions, alpha.facts.value) == (3, 1)
    assert (beta.verdict, beta.why) == ("VALID", "first of all by the policy")
    assert (local.facts, local.why) == (None, "no longer needed when the choice was made")
    assert decision(play).returned == decision(play).preferred == "beta"
    assert decision(play).seconds == pytest.approx(0.06)


def test_a_promise_is_told_and_who_keeps_it() -> None:
    play = building(ENABLED)
    play.assembled = ALPHA.assembled()
    play.ask(m.get_payload())
    play.judge(m.verdict("SYNCING"))
    play.answer("alpha", m.Block("breaks", transactions=("0x02cc",)).answer())
    play.judge(m.verdict())
    play.answer("beta", m.Block("keeps", transactions=(*ALPHA.transactions, "0x02ff")).answer())
    play.judge(m.verdict())
    found = {each.source: each for each in decision(play).candidates}
    assert decision(play).promised == 3
    assert (found["assembled"].verdict, found["assembled"].why) == ("SYNCING", "l2 said SYNCING")
    assert (found["alpha"].preserves, found["beta"].preserves, found[EL].preserves) == (False, True, None)
    assert found["alpha"].why == "it does not hold what was promised to subscribers"
    assert found["beta"].why == "first of the blocks that hold what was promised by the policy"


def test_what_the_flashblocks_add_up_to_says_so() -> None:
    play = building(ENABLED)
    play.assembled = ALPHA.assembled(validated=True)
    play.ask(m.get_payload())
    chosen = decision(play).candidate("assembled")
    assert chosen is not None
    assert chosen.why == "it is what the published flashblocks add up to"
    assert (chosen.verdict, chosen.arrived_s, chosen.validation_s) == ("VALID", 0.0, None)
    assert chosen.facts is not None
    assert chosen.facts.value is None


def test_a_block_that_comes_after_the_choice_is_told_too() -> None:
    play = building(ENABLED)
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.now += 0.2
    play.answer(EL, LOCAL.answer())
    play.answer("beta", m.error())
    (late,) = play.all_of(ev.BlockCameLate)
    assert (late.build_id, late.source, late.facts.block_hash) == (decision(play).build_id, EL, LOCAL.hash)
    assert late.seconds == pytest.approx(0.2)


def test_a_choice_with_nothing_to_return_is_told() -> None:
    play = building(ENABLED, ("alpha",))
    play.ask(m.get_payload())
    play.fail("alpha")
    play.fail(EL)
    assert decision(play).returned is decision(play).preferred is None
    assert {each.source: each.why for each in decision(play).candidates} == {"alpha": "alpha: gone", EL: "l2: gone"}


def test_in_a_dry_run_a_builder_is_judged_once_and_when_the_rehearsal_is_over() -> None:
    play = building(DRY_RUN, ("alpha",))
    play.ask(m.get_payload())
    play.answer(EL, m.Block("local").answer())
    play.answer("alpha", m.Block("alpha").answer())
    assert not [word for word in play.all_of(ev.Produced) if word.upstream == "alpha"], "it may turn out INVALID"
    play.judge(m.verdict("INVALID"))
    assert [word.ok for word in play.all_of(ev.Produced) if word.upstream == "alpha"] == [False]


def test_disabled_builders_that_are_to_be_ignored_change_nothing() -> None:
    play = building(DISABLED)
    play.tell(ev.HealthChanged(frozenset({"alpha"}), frozenset({"alpha"})))
    play.switch(ENABLED)
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    assert [call.builder for call in play.all_of(ev.SendInOrder)] == ["beta"]


def test_of_an_unhealthy_builder_it_is_told_that_it_was() -> None:
    play = building()
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    play.ask(m.get_payload())
    play.answer("alpha", m.Block("alpha").answer())
    play.answer("beta", m.Block("beta").answer())
    play.judge(m.verdict())
    ill = decision(play).candidate("alpha")
    assert decision(play).preferred == "beta"
    assert ill is not None
    assert ill.why == "its builder was unhealthy when the choice began"
