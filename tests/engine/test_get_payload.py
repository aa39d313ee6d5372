"""getPayload as a playbook: who is asked, what is chosen, and when."""

import json
import sys

import pytest

from appliance.domain.payloads import BuildId, PayloadSource
from appliance.engine import events as ev
from appliance.engine.builds import MAX_BUILDS
from appliance.engine.events import ASSEMBLED, EL, Announce, PayloadReturned, Reply, Seal, Ticket
from appliance.wire.engine_answers import BuiltPayload
from tests.engine import messages as m
from tests.engine.playbook import Playbook

LOCAL = m.Block("local")
ALPHA = m.Block("alpha's", transactions=("0x02aa", "0x02ab"))
BETA = m.Block("beta's", transactions=("0x02ba",))


def building(builders: tuple[str, ...] = ("alpha", "beta"), policy: str = "builder") -> Playbook:
    """A build that everyone has joined: the EL as 0x0e, builders as 0x00, 0x01, ..."""
    play = Playbook(builders, policy)
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    for number, builder in enumerate(builders):
        play.answer(builder, m.forkchoice_answer(f"0x0{number}"))
    play.new()
    return play


def returned(play: Playbook) -> ev.BlockReturned:
    (block,) = play.all_of(ev.BlockReturned)
    return block


def lost(play: Playbook) -> dict[str, tuple[str, str]]:
    return {each.source: (each.kind, each.reason) for each in play.all_of(ev.CandidateLost)}


def test_everyone_is_asked_under_its_own_payload_id() -> None:
    play = building()
    play.ask(m.get_payload("0x0E", identifier="gp"))
    seal, wake, *sends = play.new()
    assert isinstance(seal, Seal)
    assert isinstance(wake, ev.WakeAt)
    assert wake.at == play.now + 1.0
    bodies = {send.upstream: send.body for send in sends if isinstance(send, ev.Send)}
    assert bodies[EL] == m.get_payload("0x0E", identifier="gp"), "the EL gets op-node's own bytes"
    assert json.loads(bodies["alpha"]) == json.loads(m.get_payload("0x00", identifier="gp"))
    assert json.loads(bodies["beta"]) == json.loads(m.get_payload("0x01", identifier="gp"))


def test_the_first_builders_valid_block_is_returned_as_it_came() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    body = ALPHA.answer()
    play.answer("alpha", body)
    assert play.validating() == ALPHA.hash
    play.judge(m.verdict())
    assert play.body_for(ticket) is body
    assert returned(play).context is PayloadSource.BUILDER
    assert (returned(play).builder, returned(play).source) == ("alpha", "alpha")
    assert play.all_of(PayloadReturned) == [PayloadReturned(BuildId(1), ALPHA.hash)]


def test_the_choice_waits_neither_for_the_el_nor_for_lesser_builders() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.reply_to(ticket) is not None
    assert len(play.calls(EL)) == len(play.calls("beta")) == 1, "asked all the same, so that they finish"
    play.answer(EL, LOCAL.answer())
    play.answer("beta", BETA.answer())
    assert len(play.all_of(Reply)) == 2
    produced = [(each.upstream, each.ok) for each in play.all_of(ev.Produced)]
    assert produced == [("alpha", True), (EL, True), ("beta", True)]


def test_a_lesser_builder_is_validated_meanwhile_but_waits_for_the_better_one() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert play.reply_to(ticket) is None
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert returned(play).builder == "alpha"


def test_the_next_best_is_taken_when_the_best_fails() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    play.fail("alpha")
    assert play.body_for(ticket) == BETA.answer()
    assert lost(play) == {"alpha": ("failed", "alpha: gone")}


@pytest.mark.parametrize("status", ["INVALID", "SYNCING", "ACCEPTED", "INVALID_BLOCK_HASH", "FINE"])
def test_only_valid_lets_a_block_through(status: str) -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.answer("beta", BETA.answer())
    play.answer(EL, LOCAL.answer())
    play.judge(m.verdict(status, "why not"))
    assert play.validating() == BETA.hash
    play.judge(m.verdict(status))
    assert play.body_for(ticket) == LOCAL.answer()
    assert returned(play).context is PayloadSource.L2
    kind = "invalid" if status.startswith("INVALID") else "unjudged"
    assert {source: why for source, (why, _) in lost(play).items()} == {"alpha": kind, "beta": kind}
    blamed = [each.upstream for each in play.all_of(ev.Produced) if not each.ok]
    assert blamed == (["alpha", "beta"] if kind == "invalid" else []), "the EL's doubts are no builder's fault"
    assert status in lost(play)["alpha"][1]


def test_an_el_that_gives_no_verdict_lets_no_block_through() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.fail_verdict()
    assert play.reply_to(ticket) is None
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (m.error(), 200, "getPayload refused: -38001 Unknown payload"),
        (b"garbage", 200, "getPayload answer"),
        (b"", 500, "HTTP 500"),
        (m.result(None), 200, "no result"),
        (LOCAL.answer(version=1), 200, "getPayload answer"),
    ],
)
def test_a_builder_without_a_block_is_passed_over(body: bytes, status: int, reason: str) -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None
    play.answer("alpha", body, status=status)
    assert play.body_for(ticket) == LOCAL.answer()
    kind, text = lost(play)["alpha"]
    assert kind == "failed"
    assert reason in text


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (m.Block("stale", parent="0x" + "bb" * 32), "parent 0xbbbb"),
        (m.Block("old", timestamp=m.TIMESTAMP - 2), f"timestamp {m.TIMESTAMP - 2}"),
        (m.Block("greedy", fee_recipient="0x" + "66" * 20), "fee recipient 0x6666"),
        (m.Block("lucky", prev_randao="0x" + "66" * 32), "prevRandao 0x6666"),
        (m.Block("wide", gas_limit=1), "gas limit 1"),
        (m.Block("rich", withdrawals=("1",)), "other withdrawals"),
        (m.Block("rootless", beacon_root=None), "beacon root None"),
        (m.Block("forgetful", deposits=()), "does not begin with the transactions"),
        (m.Block("other", deposits=("0x7e11",)), "does not begin with the transactions"),
    ],
)
def test_a_block_that_was_not_asked_for_is_refused_before_the_el_sees_it(block: m.Block, reason: str) -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer("alpha", block.answer())
    assert play.validations() == []
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    assert lost(play)["alpha"][0] == "refused"
    assert reason in lost(play)["alpha"][1]


def test_hex_digits_may_be_upper_case() -> None:
    block = m.Block("loud", parent="0x" + "AA" * 32, deposits=(m.DEPOSIT.upper().replace("0X", "0x"),))
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", block.answer())
    assert play.validating() == block.hash


# --- the deadline ---


def test_at_the_deadline_the_els_own_block_is_returned() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.pass_time(0.999)
    assert play.reply_to(ticket) is None
    play.pass_time(0.001)
    assert play.body_for(ticket) == LOCAL.answer()
    assert lost(play)["alpha"] == ("late", "still pending at the deadline")
    assert returned(play).seconds == pytest.approx(1.0)


def test_at_the_deadline_the_best_valid_block_is_returned() -> None:
    play = building()
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    play.pass_time(1.0)
    assert play.body_for(ticket) == BETA.answer()


def test_a_validation_that_runs_at_the_deadline_does_not_count() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.answer("alpha", ALPHA.answer())
    play.pass_time(1.0)
    assert play.body_for(ticket) == LOCAL.answer()
    assert lost(play)["alpha"] == ("late", "still validating at the deadline")
    play.judge(m.verdict())
    assert len(play.all_of(ev.BlockReturned)) == 1


def test_past_the_deadline_the_first_block_that_is_there_is_returned() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.pass_time(1.0)
    assert play.reply_to(ticket) is None
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


def test_a_builders_block_saves_the_slot_when_the_el_has_none() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, m.error())
    play.pass_time(0.9)
    play.answer("alpha", ALPHA.answer())
    play.pass_time(0.1)
    assert play.reply_to(ticket) is None, "its verdict is waited for, there is nothing else"
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_a_builders_block_past_the_deadline_counts_as_long_as_the_els_is_awaited() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.pass_time(1.0)
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_without_a_block_of_the_el_builders_are_not_awaited_past_the_deadline() -> None:
    play = building()
    ticket = play.ask(m.get_payload(identifier="x"))
    play.answer(EL, m.error(identifier="x"))
    play.answer("beta", BETA.answer())
    play.pass_time(1.0)
    assert play.reply_to(ticket) is None
    play.judge(m.verdict("INVALID"))
    assert play.body_for(ticket) == m.error(identifier="x")
    assert lost(play)["alpha"] == ("late", "still pending at the deadline")
    assert [each.upstream for each in play.all_of(ev.Produced) if not each.ok] == ["beta", "alpha"]


# --- nothing to return ---


def test_when_nobody_has_a_block_the_els_error_is_passed_on() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload(identifier="x"))
    play.answer(EL, m.error(identifier="x"))
    play.fail("alpha")
    assert play.body_for(ticket) == m.error(identifier="x")


def test_when_nobody_answers_op_node_gets_the_els_reason() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload(identifier="x"))
    play.fail("alpha")
    play.fail(EL, "no answer from http://el:8551 within 1000 ms")
    answer = json.loads(play.body_for(ticket))
    assert answer["id"] == "x"
    assert answer["error"]["message"] == "l2: no answer from http://el:8551 within 1000 ms"
    assert (EL, False) in [(each.upstream, each.ok) for each in play.all_of(ev.Produced)]


def test_after_a_failure_op_node_may_ask_again() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.fail("alpha")
    play.fail(EL)
    play.pass_time(0.9)
    ticket = play.ask(m.get_payload(identifier=2))
    play.pass_time(0.2)
    assert play.reply_to(ticket) is None, "the first deadline is not the second one's"
    play.answer("alpha", ALPHA.answer(identifier=2))
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer(identifier=2)


def test_an_answer_of_the_el_that_we_cannot_read_is_still_its_word() -> None:
    """A chain upgrade may change the shape of the answer: it passes as long as no builder's block is there."""
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, m.result({"executionPayloadV9": {}}))
    play.fail("alpha")
    assert play.body_for(ticket) == m.result({"executionPayloadV9": {}})


# --- late and absent builders ---


def test_a_payload_id_that_comes_late_is_asked_for_then() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    (call,) = play.calls("alpha")
    assert json.loads(call.body) == json.loads(m.get_payload("0x0a"))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_a_payload_id_that_comes_after_the_choice_is_not_asked_for() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.pass_time(1.0)
    assert play.reply_to(ticket) is not None
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    assert play.calls("alpha") == []


def test_an_absent_builder_is_not_waited_for() -> None:
    play = Playbook(("alpha", "beta"))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.fail("alpha")
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.reply_to(ticket) is None
    play.fail("beta")
    assert play.body_for(ticket) == LOCAL.answer()
    assert [(each.upstream, each.ok) for each in play.all_of(ev.Produced)] == [
        ("alpha", False),
        (EL, True),
        ("beta", False),
    ]


# --- getPayload before the EL's answer to the order ---


def test_a_payload_that_is_asked_for_early_is_fenced_and_chosen_once_the_el_has_named_it() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    play.new()
    ticket = play.ask(m.get_payload())
    assert play.new() == []
    play.now += 0.3
    play.answer(EL, m.forkchoice_answer("0x0e"))
    kinds = [type(command) for command in play.new()]
    assert kinds == [Reply, ev.HeadChanged, ev.BuildConfirmed, Seal, ev.WakeAt, ev.Send, ev.Send]
    assert play.alarms[0].at == play.now + 0.7, "op-node has waited for a while already"
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_an_early_request_for_another_payload_goes_to_the_el_once_that_has_answered() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x99"))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert play.all_of(Seal) == []
    play.answer(EL, m.error())
    assert play.body_for(ticket) == m.error()


@pytest.mark.parametrize("answer", [m.forkchoice_answer(None, "SYNCING"), m.forkchoice_answer(None), m.error(-38003)])
def test_early_requests_go_to_the_el_when_it_does_not_build(answer: bytes) -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    tickets = [play.ask(m.get_payload("0x99", identifier=number)) for number in range(2)]
    play.answer(EL, answer)
    for _ in tickets:
        play.answer(EL, LOCAL.answer())
    assert [play.body_for(ticket) for ticket in tickets] == [LOCAL.answer()] * 2
    assert play.all_of(Seal) == []


@pytest.mark.parametrize("newer", [True, False])
def test_early_requests_go_to_the_el_once_every_order_is_answered_or_it_is_down(newer: bool) -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x99"))
    if newer:
        play.ask(m.build(timestamp=m.TIMESTAMP + 2))
        play.answer(EL, m.forkchoice_answer("0x0e"))
        assert len(play.calls(EL)) == 1, "the newer one may still be the one that is meant"
        play.answer(EL, m.forkchoice_answer("0x0f"))
    else:
        play.fail(EL)
    (call,) = [call for call in play.calls(EL) if call.body == m.get_payload("0x99")]
    play.tell(ev.Answered(call.call_id, "l2", 200, m.error()))
    assert play.body_for(ticket) == m.error()


# --- what flashblocks promised ---


def test_the_assembled_block_comes_first_and_needs_no_second_verdict() -> None:
    play = building()
    play.assembled = ALPHA.assembled(validated=True)
    ticket = play.ask(m.get_payload(identifier="gp"))
    answer = json.loads(play.body_for(ticket))
    assert answer["id"] == "gp"
    assert answer["result"]["executionPayload"] == ALPHA.payload()
    assert (returned(play).source, returned(play).builder) == (ASSEMBLED, "alpha")
    assert play.validations() == []
    assert len(play.calls("alpha")) == len(play.calls(EL)) == 1, "they are asked, so that they finish"


def test_an_assembled_block_without_verdict_is_validated() -> None:
    play = building()
    play.assembled = ALPHA.assembled()
    ticket = play.ask(m.get_payload())
    assert play.validating() == ALPHA.hash
    play.judge(m.verdict())
    assert json.loads(play.body_for(ticket))["result"]["executionPayload"] == ALPHA.payload()


def test_when_the_assembled_block_is_bad_a_block_that_keeps_the_promise_is_next() -> None:
    """beta is the second choice by configuration, but its block holds what alpha's flashblocks promised."""
    keeps = m.Block("keeps", transactions=(*ALPHA.transactions, "0x02ff"))
    play = building()
    play.assembled = ALPHA.assembled()
    ticket = play.ask(m.get_payload())
    play.judge(m.verdict("INVALID"))
    play.answer(EL, LOCAL.answer())
    play.answer("alpha", m.Block("breaks", transactions=("0x02cc",)).answer())
    play.judge(m.verdict())
    assert play.reply_to(ticket) is None, "beta may still keep the promise"
    play.answer("beta", keeps.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == keeps.answer()


def test_an_assembled_block_of_another_parent_is_refused() -> None:
    play = building(("alpha",))
    play.assembled = m.Block("stale", parent="0x" + "bb" * 32).assembled(validated=True)
    ticket = play.ask(m.get_payload())
    assert play.reply_to(ticket) is None
    assert lost(play)[ASSEMBLED][0] == "refused"


def test_forced_transactions_alone_are_no_promise() -> None:
    """An empty builder block promises nothing, so the policy decides: the EL's block has ten times its gas."""
    play = building(("alpha",), policy="gas_used")
    play.assembled = m.Block("empty", gas_used=21_000).assembled(validated=True)
    ticket = play.ask(m.get_payload())
    assert play.reply_to(ticket) is None
    full = m.Block("full", gas_used=1_000_000, transactions=("0x02aa",))
    play.answer("alpha", m.Block("empty too", gas_used=21_000).answer())
    play.answer(EL, full.answer())
    assert play.body_for(ticket) == full.answer()


# --- asking twice ---


def test_asked_twice_the_same_block_is_answered() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload(identifier=1))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.new()
    second = play.ask(m.get_payload(identifier="two"))
    (reply,) = play.new()
    assert isinstance(reply, Reply)
    assert reply.ticket == second
    assert json.loads(reply.body) == {**json.loads(ALPHA.answer()), "id": "two"}


def test_asked_while_choosing_both_get_the_same_block() -> None:
    play = building(("alpha",))
    first = play.ask(m.get_payload(identifier=1))
    second = play.ask(m.get_payload(identifier=2))
    assert len(play.calls(EL)) == len(play.calls("alpha")) == 1
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert json.loads(play.body_for(first)) == json.loads(ALPHA.answer(identifier=1))
    assert json.loads(play.body_for(second)) == json.loads(ALPHA.answer(identifier=2))
    assert len(play.all_of(ev.BlockReturned)) == 1


def test_the_same_order_after_the_answer_gives_the_same_block_again() -> None:
    """op-node did not get our answer and starts over: the fenced stream's promise is kept."""
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.ask(m.build())
    assert play.calls("alpha") == [], "the builder is not asked to build it again"
    play.answer(EL, m.forkchoice_answer("0x0f"), nth=1)
    ticket = play.ask(m.get_payload("0x0f"))
    assert play.body_for(ticket) == ALPHA.answer()
    assert len(play.all_of(ev.BuildStarted)) == 1


def test_one_block_under_two_payload_ids_is_no_trouble() -> None:
    play = building(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0f"))
    first, second = play.ask(m.get_payload("0x0e")), play.ask(m.get_payload("0x0f"))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(first) == play.body_for(second) == ALPHA.answer()


def nested(block: m.Block, identifier: int, depth: int) -> bytes:
    """An answer with one more member that holds arrays in arrays."""
    return block.answer(identifier)[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("identifier", [1, 99])
def test_an_answer_nested_to_the_recursion_limit_is_refused_or_returned_and_never_raises(identifier: int) -> None:
    """What could be read when it came is not read again for the answer, where the stack may be deeper."""
    limit = sys.getrecursionlimit()
    outcomes = set()
    for depth in range(limit - 200, limit):
        play = building(("alpha",))
        tickets = {number: play.ask(m.get_payload(identifier=number)) for number in (1, 2)}
        play.answer("alpha", nested(ALPHA, identifier, depth))
        outcomes.add(play.validating())
        if play.validating() is None:
            continue
        play.judge(m.verdict())
        for number, ticket in tickets.items():
            assert play.body_for(ticket).startswith(b'{"jsonrpc":')
            assert b'"id":%d,' % number in play.body_for(ticket).replace(b" ", b"")
    assert outcomes == {ALPHA.hash, None}


# --- a block that turns out INVALID at op-node ---


def rejected(status: str = "INVALID") -> Playbook:
    """alpha's block was returned; then the EL says something else of it to op-node, which orders the build again."""
    play = building()
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.answer(EL, LOCAL.answer())
    play.answer("beta", BETA.answer())
    ticket = play.ask(m.new_payload(ALPHA))
    play.answer(EL, m.verdict(status, "bad root"))
    assert play.body_for(ticket) == m.verdict(status, "bad root")
    return play


@pytest.mark.parametrize("status", ["INVALID", "INVALID_BLOCK_HASH"])
def test_a_block_that_op_node_was_told_is_invalid_is_not_returned_again(status: str) -> None:
    play = rejected(status)
    assert lost(play)["alpha"] == ("invalid", f"l2 said {status} to op-node: bad root")
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    first, second = play.all_of(ev.BuildStarted)
    assert (first.build.builders, second.build.builders) == (("alpha", "beta"), ("beta",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.fail("beta")
    assert play.body_for(ticket) == LOCAL.answer()


def test_a_choice_meets_its_deadline_also_when_many_orders_come_meanwhile() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    for number in range(MAX_BUILDS + 1):
        play.ask(m.build(timestamp=m.TIMESTAMP + 1 + number))
    play.pass_time(1.0)
    assert play.body_for(ticket) == LOCAL.answer()


def test_builders_are_barred_one_after_the_other_and_for_this_slot_alone() -> None:
    play = rejected()
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("beta", m.forkchoice_answer("0x01"))
    play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    play.answer(EL, LOCAL.answer())
    play.ask(m.new_payload(BETA))
    play.answer(EL, m.verdict("INVALID"))
    play.ask(m.build())
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    builders = [each.build.builders for each in play.all_of(ev.BuildStarted)]
    assert builders == [("alpha", "beta"), ("beta",), (), ("alpha", "beta")]


def test_asked_again_without_a_new_order_the_invalid_block_is_not_among_the_offers() -> None:
    play = rejected()
    play.assembled = ALPHA.assembled(validated=True)
    ticket = play.ask(m.get_payload())
    assert play.calls("alpha") == []
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == BETA.answer()


def test_the_els_own_block_that_is_invalid_is_built_anew() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.fail("alpha")
    play.answer(EL, LOCAL.answer())
    play.ask(m.new_payload(LOCAL))
    play.answer(EL, m.verdict("INVALID"))
    play.ask(m.build())
    assert [each.build.builders for each in play.all_of(ev.BuildStarted)] == [("alpha",), ("alpha",)]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (m.new_payload(ALPHA), m.verdict("VALID")),
        (m.new_payload(ALPHA), m.verdict("SYNCING")),
        (m.new_payload(ALPHA), m.error()),
        (m.new_payload(BETA), m.verdict("INVALID")),
        (m.request("engine_newPayloadV4", []), m.verdict("INVALID")),
    ],
)
def test_no_other_word_on_a_block_takes_it_back(body: bytes, answer: bytes) -> None:
    play = building(("alpha",))
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    play.answer(EL, LOCAL.answer())
    play.ask(body)
    play.answer(EL, answer)
    play.ask(m.build())
    assert len(play.all_of(ev.BuildStarted)) == 1
    assert play.body_for(play.ask(m.get_payload())) == ALPHA.answer()


# --- the EL alone ---


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_an_unknown_payload_id_is_the_els_business(version: int) -> None:
    play = building()
    ticket = play.ask(m.get_payload("0x99", version=version))
    assert [type(command) for command in play.new()] == [ev.Send]
    play.answer(EL, LOCAL.answer(version=version))
    assert play.body_for(ticket) == LOCAL.answer(version=version)
    assert (returned(play).context, returned(play).block_hash) == (PayloadSource.L2, LOCAL.hash)
    assert play.all_of(PayloadReturned) == []


def test_an_unknown_payload_is_no_sign_of_ill_health() -> None:
    play = building()
    play.ask(m.get_payload("0x99"))
    play.answer(EL, m.error())
    assert play.all_of(ev.Produced) == []


def test_an_unknown_version_is_fenced_and_left_to_the_el() -> None:
    play = building()
    ticket = play.ask(m.get_payload(version=6))
    assert [type(command) for command in play.new()] == [Seal, ev.Send]
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    assert play.all_of(PayloadReturned) == [PayloadReturned(BuildId(1), LOCAL.hash)]


def test_a_build_without_builders_is_the_els_alone() -> None:
    play = Playbook()
    play.ask(m.build(no_tx_pool=True))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()
    assert play.all_of(PayloadReturned) == [PayloadReturned(BuildId(1), LOCAL.hash)]


@pytest.mark.parametrize(("no_tx_pool", "version"), [(True, 4), (False, 6)])
def test_a_build_that_was_answered_by_the_el_alone_is_not_abandoned_later(no_tx_pool: bool, version: int) -> None:
    play = Playbook()
    play.ask(m.build(no_tx_pool=no_tx_pool))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.ask(m.get_payload(version=version))
    play.answer(EL, LOCAL.answer())
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    assert play.all_of(ev.BuildAbandoned) == []


def test_a_version_that_we_know_can_follow_one_that_we_do_not() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload(version=6))
    play.answer(EL, m.error())
    ticket = play.ask(m.get_payload(version=4))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_another_version_of_an_answered_payload_is_the_els_business() -> None:
    play = building(("alpha",))
    play.ask(m.get_payload(version=3))
    play.answer("alpha", ALPHA.answer(version=3))
    play.judge(m.verdict())
    play.open.clear()
    ticket = play.ask(m.get_payload(version=4))
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_every_known_version_is_multiplexed(version: int) -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload(version=version))
    play.answer("alpha", ALPHA.answer(version=version))
    assert play.validating() == ALPHA.hash
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer(version=version)


# --- afterwards ---


def test_the_chosen_block_is_announced_to_the_builders_and_its_number_is_known_as_head() -> None:
    play = building()
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    (announce,) = play.all_of(Announce)
    assert isinstance(announce.block, BuiltPayload)
    assert announce.block.block_hash == ALPHA.hash
    assert announce.parent_beacon_block_root == m.ROOT
    play.ask(m.forkchoice(ALPHA.hash))
    play.answer(EL, LOCAL.answer())
    play.answer(EL, m.forkchoice_answer())
    assert play.all_of(ev.HeadChanged)[-1] == ev.HeadChanged(ALPHA.hash, ALPHA.number)


def test_what_became_of_each_candidate_is_told() -> None:
    play = building()
    play.ask(m.get_payload())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict("INVALID", "bad state root"))
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    assert returned(play).candidates == {
        "alpha": "lost: l2 said INVALID: bad state root",
        "beta": "valid",
        EL: "pending",
    }


def test_old_builds_are_forgotten_and_left_to_the_el() -> None:
    play = building(("alpha",))
    for slot in range(1, MAX_BUILDS + 2):
        play.ask(m.build(timestamp=m.TIMESTAMP + slot))
        play.answer(EL, m.forkchoice_answer(hex(0x100 + slot)))
        play.fail("alpha")
    play.new()
    play.ask(m.get_payload("0x0e"))
    assert [type(command) for command in play.new()] == [ev.Send]
    play.open.clear()
    assert isinstance(play.ask(m.get_payload(hex(0x100 + MAX_BUILDS))), int)
    assert isinstance(play.new()[0], Seal)


def test_tickets_are_answered_once_whatever_comes_later() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, LOCAL.answer())
    play.pass_time(1.0)
    play.answer("alpha", ALPHA.answer())
    play.pass_time(5.0)
    assert play.body_for(Ticket(ticket)) == LOCAL.answer()
    assert play.machine.open_calls == 0
