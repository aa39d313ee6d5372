"""external_state_root: a block without its state root is built once more by the EL, within the budget."""

import json

import pytest

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadSource
from appliance.engine import events as ev
from appliance.engine.events import EL
from appliance.engine.multiplexer import Multiplexer
from appliance.engine.policies import policy_named
from tests.engine import messages as m
from tests.engine.playbook import Playbook

ZERO = "0x" + "00" * 32
SHOWN = m.Block("shown", transactions=("0x02aa",), state_root=ZERO)
WHOLE = m.Block("whole", transactions=("0x02aa",))
LOCAL = m.Block("local")


def building(
    *, enabled: bool = True, shown: m.Block | None = SHOWN, mode: ExecutionMode = ExecutionMode.ENABLED
) -> Playbook:
    play = Playbook(("alpha",))
    play.machine = Multiplexer(("alpha",), policy_named("builder"), 1.0, mode, external_state_root=enabled)
    play.assembled = shown.assembled() if shown else None
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    return play


def returned_build(play: Playbook) -> BuildId:
    return play.all_of(ev.BuildStarted)[0].build.build_id


def calls_of(play: Playbook, method: str) -> list[ev.Send]:
    found = [call for call in play.calls(EL) if isinstance(call, ev.Send)]
    return [call for call in found if method.encode() in call.body]


def answer_order(play: Playbook, body: bytes) -> None:
    [call] = calls_of(play, "forkchoiceUpdated")
    play.open.remove(call)
    play.tell(ev.Answered(call.call_id, "l2", 200, body))


def answer_block(play: Playbook, body: bytes, payload_id: str = "0x77") -> None:
    [call] = calls_of(play, payload_id)
    play.open.remove(call)
    play.tell(ev.Answered(call.call_id, "l2", 200, body))


def test_the_el_builds_what_was_shown_and_its_block_is_returned_as_the_builders() -> None:
    play = building()
    ticket = play.ask(m.get_payload(identifier=9))
    assert play.validations() == []
    [order] = calls_of(play, "forkchoiceUpdated")
    attributes = json.loads(order.body)["params"][1]
    assert (attributes["noTxPool"], attributes["transactions"]) == (True, [m.DEPOSIT, "0x02aa"])
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None, "the EL's own block is only the fall-back"
    answer_order(play, m.forkchoice_answer("0x77"))
    answer_block(play, WHOLE.answer())
    result = json.loads(play.body_for(ticket))
    assert (result["id"], result["result"]["executionPayload"]["blockHash"]) == (9, WHOLE.hash)
    [returned] = play.all_of(ev.BlockReturned)
    assert (returned.context, returned.builder, returned.source) == (PayloadSource.BUILDER, "alpha", "assembled")
    assert play.all_of(ev.PayloadReturned) == [ev.PayloadReturned(returned_build(play), WHOLE.hash, holds_all=True)]
    assert [each.block.block_hash for each in play.all_of(ev.Announce)] == [WHOLE.hash]


def test_a_builders_own_answer_without_a_root_is_completed_too() -> None:
    play = building(shown=None)
    ticket = play.ask(m.get_payload())
    play.answer("alpha", SHOWN.answer())
    answer_order(play, m.forkchoice_answer("0x77"))
    answer_block(play, WHOLE.answer())
    assert WHOLE.hash.encode() in play.body_for(ticket)


def test_a_block_with_its_root_is_validated_as_ever() -> None:
    play = building(shown=m.Block("shown", transactions=("0x02aa",), state_root="0x" + "01" * 32))
    play.ask(m.get_payload())
    assert play.validating() == m.block_hash("shown")


def test_switched_off_nothing_is_completed() -> None:
    play = building(enabled=False)
    play.ask(m.get_payload())
    assert play.validating() == SHOWN.hash


def fall_back(play: Playbook) -> None:
    """What op-node gets is the EL's own, and no builder is blamed."""
    play.answer("alpha", m.error())
    play.answer(EL, LOCAL.answer())
    [reply] = [each for each in play.all_of(ev.Reply) if LOCAL.hash.encode() in each.body]
    assert reply.body == LOCAL.answer()
    assert [each.kind for each in play.all_of(ev.CandidateLost) if each.source == "assembled"] == ["unjudged"]


def test_an_el_that_refuses_the_order_gives_its_own_block() -> None:
    play = building()
    play.ask(m.get_payload())
    answer_order(play, m.error(-38003))
    fall_back(play)


def test_an_el_that_has_no_payload_id_gives_its_own_block() -> None:
    play = building()
    play.ask(m.get_payload())
    answer_order(play, m.forkchoice_answer(None, "SYNCING"))
    fall_back(play)


def test_an_el_that_makes_another_block_of_it_gives_its_own_block() -> None:
    for other in (m.Block("less"), m.Block("more", transactions=("0x02aa", "0x02ab"))):
        play = building()
        play.ask(m.get_payload())
        answer_order(play, m.forkchoice_answer("0x77"))
        answer_block(play, other.answer())
        fall_back(play)


def test_an_el_that_takes_too_long_gives_its_own_block_at_the_deadline() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    answer_order(play, m.forkchoice_answer("0x77"))
    [own] = calls_of(play, '"0x0e"')
    play.open.remove(own)
    play.tell(ev.Answered(own.call_id, "l2", 200, LOCAL.answer()))
    assert play.reply_to(ticket) is None
    play.pass_time(1.0)
    assert play.body_for(ticket) == LOCAL.answer()
    answer_block(play, WHOLE.answer())
    assert len(play.all_of(ev.Reply)) == 2
    assert [each for each in play.all_of(ev.Produced) if each.upstream == "alpha" and not each.ok] != []


@pytest.mark.parametrize("ordered", [False, True])
def test_switched_off_meanwhile_the_els_block_of_it_does_not_come_back(ordered: bool) -> None:
    play = building()
    ticket = play.ask(m.get_payload(identifier=9))
    if ordered:
        answer_order(play, m.forkchoice_answer("0x77"))
    play.switch(ExecutionMode.DISABLED)
    if ordered:
        answer_block(play, WHOLE.answer())
    else:
        answer_order(play, m.forkchoice_answer("0x77"))
        assert calls_of(play, "0x77") == [], "nobody wants its block any more"
    assert play.reply_to(ticket) is None
    play.answer(EL, LOCAL.answer())
    assert play.all_of(ev.BlockReturned)[0].context is PayloadSource.L2


def test_in_a_dry_run_it_is_filled_in_after_the_reply_and_told() -> None:
    play = building(mode=ExecutionMode.DRY_RUN)
    play.ask(m.get_payload(identifier=9))
    play.answer(EL, LOCAL.answer())
    assert play.all_of(ev.BlockReturned)[0].context is PayloadSource.L2
    play.answer("alpha", SHOWN.answer())
    answer_order(play, m.forkchoice_answer("0x77"))
    play.now += 0.25
    answer_block(play, WHOLE.answer())
    [decided] = play.all_of(ev.Decided)
    assert (decided.decision.returned, decided.decision.preferred) == (EL, "alpha")
    candidate = decided.decision.candidate("alpha")
    assert candidate is not None
    assert candidate.validation_s == 0.25
    assert [word.ok for word in play.all_of(ev.Produced) if word.upstream == "alpha"] == [True]
