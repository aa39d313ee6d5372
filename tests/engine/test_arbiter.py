"""The builder listener's machine: one build for equal orders, one order per parent, the best block of all builders."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.events import (
    BuildAbandoned,
    BuildConfirmed,
    BuilderJoined,
    BuildStarted,
    HeadChanged,
    SendInOrder,
)
from appliance.engine.shared_builds import BUILDING_S, MAX_BUILDS
from tests.engine import messages as m
from tests.engine.pool import PoolPlaybook

ALPHA = m.Block("alpha's", transactions=("0x02aa",))
BETA = m.Block("beta's", transactions=("0x02bb",), gas_used=900_000)


def answer_of(play: PoolPlaybook, ticket: ev.Ticket) -> dict[str, object]:
    found = json.loads(play.body_for(ticket))
    assert isinstance(found, dict)
    return found


def payload_id_of(play: PoolPlaybook, ticket: ev.Ticket) -> object:
    result = answer_of(play, ticket)["result"]
    assert isinstance(result, dict)
    assert result["payloadStatus"]["status"] == "VALID"
    return result["payloadId"]


def other_build(head: str = m.PARENT, identifier: object = 1) -> bytes:
    """An order of another sequencer: the same parent, another fee recipient."""
    return m.build(head, identifier=identifier).replace(m.FEE_RECIPIENT.encode(), b"0x" + b"43" * 20)


# --- orders to build ---


def test_an_order_goes_to_all_builders_and_the_first_answer_names_the_build() -> None:
    play = PoolPlaybook()
    ticket = play.ask(m.build(identifier=7))
    assert [order.builder for order in play.all_of(SendInOrder)] == ["alpha", "beta"]
    assert [each.build.builders for each in play.all_of(BuildStarted)] == [("alpha", "beta")]
    assert play.reply_to(ticket) is None
    play.join("beta")
    assert (payload_id_of(play, ticket), answer_of(play, ticket)["id"]) == ("0x0b", 7)
    assert play.all_of(BuildConfirmed) == [BuildConfirmed(BuildId(1))]
    assert play.all_of(HeadChanged) == [HeadChanged(m.PARENT, None)]


def test_only_streams_of_the_id_that_sequencers_know_can_be_theirs() -> None:
    play = PoolPlaybook(("alpha", "beta", "gamma"))
    play.ask(m.build())
    play.join("beta")
    play.join("alpha")
    play.join("gamma", payload_id="0x0b")
    assert [(each.builder, each.payload_id) for each in play.all_of(BuilderJoined)] == [
        ("beta", "0x0b"),
        ("gamma", "0x0b"),
    ]


@pytest.mark.parametrize("early", [True, False])
def test_the_same_order_twice_is_one_build_and_one_answer(early: bool) -> None:
    play = PoolPlaybook()
    first = play.ask(m.build(identifier="a"))
    if not early:
        play.join("alpha", "beta")
    second = play.ask(m.build(identifier="b"))
    if early:
        play.join("alpha", "beta")
    assert len(play.all_of(SendInOrder)) == 2
    assert payload_id_of(play, first) == payload_id_of(play, second) == "0x0a"
    assert answer_of(play, second)["id"] == "b"


def test_two_sequencers_that_disagree_on_what_is_final_still_want_the_same_block() -> None:
    play = PoolPlaybook()
    play.built()
    request = json.loads(m.build())
    request["params"][0]["finalizedBlockHash"] = "0x" + "00" * 32
    request["params"][1] = dict(reversed(request["params"][1].items()))
    ticket = play.ask(json.dumps(request).encode())
    assert payload_id_of(play, ticket) == "0x0a"
    assert len(play.all_of(SendInOrder)) == 2


def test_a_second_different_order_on_the_same_parent_is_turned_away() -> None:
    play = PoolPlaybook()
    play.ask(m.build())
    ticket = play.ask(other_build(identifier=9))
    assert payload_id_of(play, ticket) is None
    assert answer_of(play, ticket)["id"] == 9
    assert len(play.all_of(SendInOrder)) == 2
    [turned_away] = play.all_of(ev.OrderTurnedAway)
    assert turned_away.parent_hash == m.PARENT
    assert play.all_of(BuildAbandoned) == []


def test_an_order_on_another_parent_takes_the_place_of_the_one_before() -> None:
    play = PoolPlaybook()
    play.built()
    play.ask(m.build(head=m.block_hash("next")))
    assert len(play.all_of(SendInOrder)) == 4
    assert play.all_of(BuildAbandoned) == [BuildAbandoned(BuildId(1))]


@pytest.mark.parametrize("how", ["getPayload", "time", "refused", "head"])
def test_an_order_that_is_over_keeps_nobody_away(how: str) -> None:
    play = PoolPlaybook()
    play.ask(m.build())
    if how == "refused":
        play.fail("alpha")
        play.fail("beta")
    else:
        play.join("alpha", "beta")
    if how == "getPayload":
        play.ask(m.get_payload("0x0a"))
        play.answer("alpha", ALPHA.answer())
    elif how == "time":
        play.pass_time(BUILDING_S)
    elif how == "head":
        play.ask(m.forkchoice(ALPHA.hash))
        play.answer("alpha", m.forkchoice_answer())
        play.answer("beta", m.forkchoice_answer())
    ticket = play.ask(other_build())
    assert len(play.all_of(SendInOrder)) == (6 if how == "head" else 4)
    play.join("beta", payload_id="0x0d")
    if how != "getPayload":
        assert payload_id_of(play, ticket) == "0x0d"
    assert play.all_of(ev.OrderTurnedAway) == []


# --- a sequencer that lags ---

OLD, PARENT = m.Block("old", number=5), m.Block("parent", number=6)


def leading() -> PoolPlaybook:
    """The leader's build on block 6 runs; a follower has shown block 5."""
    play = PoolPlaybook()
    for block in (OLD, PARENT):
        play.ask(m.new_payload(block))
        play.answer("alpha", m.verdict())
        play.answer("beta", m.verdict())
    play.ask(m.build(head=PARENT.hash))
    play.join("alpha", "beta")
    return play


def test_a_sequencer_that_lags_does_not_take_the_leaders_build_from_the_builders() -> None:
    """It would take their heads back, end the stream that subscribers see, and let a second order in."""
    play = leading()
    sent = len(play.all_of(SendInOrder))
    ticket = play.ask(m.forkchoice(OLD.hash, identifier=3))
    assert payload_id_of(play, ticket) is None
    assert answer_of(play, ticket)["id"] == 3
    assert len(play.all_of(SendInOrder)) == sent
    assert play.all_of(BuildAbandoned) == []
    assert [each.head for each in play.all_of(ev.HeadTurnedAway)] == [OLD.hash]
    ticket = play.ask(other_build(PARENT.hash))
    assert payload_id_of(play, ticket) is None


@pytest.mark.parametrize("how", ["level", "higher", "unknown", "getPayload", "time"])
def test_any_other_head_goes_to_the_builders(how: str) -> None:
    play = leading()
    heads = {"level": PARENT.hash, "higher": m.block_hash("higher"), "unknown": m.block_hash("unknown")}
    if how == "higher":
        play.ask(m.new_payload(m.Block("higher", number=7)))
    elif how == "getPayload":
        play.ask(m.get_payload("0x0a"))
    elif how == "time":
        play.pass_time(BUILDING_S)
    sent = len(play.all_of(SendInOrder))
    play.ask(m.forkchoice(heads.get(how, OLD.hash)))
    assert len(play.all_of(SendInOrder)) == sent + 2
    assert play.all_of(ev.HeadTurnedAway) == []


def test_a_leader_that_goes_back_takes_the_builders_along_with_its_order() -> None:
    play = leading()
    play.ask(m.forkchoice(OLD.hash))
    ticket = play.ask(m.build(head=OLD.hash, timestamp=m.TIMESTAMP - 1))
    play.join("alpha", payload_id="0x0d")
    assert payload_id_of(play, ticket) == "0x0d"
    assert play.all_of(BuildAbandoned) == [BuildAbandoned(BuildId(1))]


def test_an_order_whose_get_payload_found_no_block_keeps_nobody_away() -> None:
    play = PoolPlaybook()
    play.built()
    play.ask(m.get_payload("0x0a"))
    play.fail("alpha")
    play.fail("beta")
    ticket = play.ask(other_build())
    play.join("beta", payload_id="0x0d")
    assert payload_id_of(play, ticket) == "0x0d"


@pytest.mark.parametrize("value", ["1e999", "9" * 5000])
def test_an_order_with_a_number_that_nobody_can_read_is_an_order(value: str) -> None:
    body = m.build().replace(b'"timestamp"', b'"x": %b, "timestamp"' % value.encode())
    play = PoolPlaybook()
    first, second = play.ask(body), play.ask(body)
    play.join("alpha", "beta")
    assert payload_id_of(play, first) == payload_id_of(play, second) == "0x0a"
    assert len(play.all_of(SendInOrder)) == 2


def test_builders_that_were_absent_are_asked_again_by_the_same_order() -> None:
    play = PoolPlaybook()
    play.ask(m.build())
    play.fail("alpha")
    play.join("beta")
    play.ask(m.build())
    assert [order.builder for order in play.all_of(SendInOrder)] == ["alpha", "beta", "alpha"]


def test_a_builder_that_only_declines_is_well() -> None:
    play = PoolPlaybook()
    play.ask(m.build())
    play.answer("alpha", m.forkchoice_answer(None))
    play.answer("beta", m.forkchoice_answer(None, "SYNCING"))
    assert [(each.upstream, each.ok) for each in play.all_of(ev.Produced)] == [("beta", False)]
    assert len(play.all_of(ev.BuilderAbsent)) == 2


def test_when_nobody_builds_the_best_answer_goes_back_and_the_same_order_begins_anew() -> None:
    play = PoolPlaybook(("alpha", "beta", "gamma"))
    ticket = play.ask(m.build())
    play.fail("alpha")
    play.answer("beta", m.error(-38003))
    assert play.reply_to(ticket) is None
    play.answer("gamma", m.forkchoice_answer(None, "SYNCING"))
    assert b"SYNCING" in play.body_for(ticket)
    assert play.all_of(BuildAbandoned) == [BuildAbandoned(BuildId(1))]
    assert len(play.all_of(ev.BuilderAbsent)) == 3
    again = play.ask(m.build())
    for builder in play.builders:
        play.fail(builder)
    assert b"no builder answered" in play.body_for(again)
    assert [each.build.build_id for each in play.all_of(BuildStarted)] == [1, 2]


# --- getPayload ---


def test_get_payload_asks_each_builder_under_its_own_id_and_the_policys_best_is_returned() -> None:
    play = PoolPlaybook(policy="max_gas_used")
    play.built()
    ticket = play.ask(m.get_payload("0x0a", identifier=5))
    assert [json.loads(call.body)["params"] for call in play.open if isinstance(call, ev.Send)] == [["0x0a"], ["0x0b"]]
    play.answer("alpha", ALPHA.answer(5))
    assert play.reply_to(ticket) is None, "beta may have more"
    play.answer("beta", BETA.answer(5))
    assert play.body_for(ticket) == BETA.answer(5)
    [returned] = play.all_of(ev.BlockReturned)
    assert (returned.builder, returned.payload_id, returned.block_hash) == ("beta", "0x0a", BETA.hash)
    assert play.all_of(ev.PayloadReturned) == [ev.PayloadReturned(BuildId(1), BETA.hash)]
    assert play.validations() == []


def test_asked_twice_the_same_block_under_each_ones_id() -> None:
    play = PoolPlaybook()
    play.built()
    first, second = play.ask(m.get_payload("0x0a", 1)), play.ask(m.get_payload("0x0a", 2))
    play.answer("beta", BETA.answer(1))
    play.answer("alpha", ALPHA.answer(1))
    third = play.ask(m.get_payload("0x0a", 3))
    assert play.body_for(first) == ALPHA.answer(1)
    assert [answer_of(play, each)["id"] for each in (first, second, third)] == [1, 2, 3]
    hashes = {json.loads(play.body_for(each))["result"]["executionPayload"]["blockHash"] for each in (second, third)}
    assert hashes == {ALPHA.hash}
    assert len(play.all_of(ev.Seal)) == 1


def test_a_builder_that_hangs_is_waited_for_until_the_deadline() -> None:
    play = PoolPlaybook()
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.answer("beta", BETA.answer())
    play.pass_time(0.9)
    assert play.reply_to(ticket) is None
    play.pass_time(0.1)
    assert play.body_for(ticket) == BETA.answer()
    assert [(each.upstream, each.ok) for each in play.all_of(ev.Produced)] == [("alpha", False), ("beta", True)]


def test_an_ill_builder_costs_no_time_and_stands_behind() -> None:
    play = PoolPlaybook()
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.answer("beta", BETA.answer())
    assert play.body_for(ticket) == BETA.answer()


def test_an_ill_builder_is_better_than_none() -> None:
    play = PoolPlaybook()
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.fail("beta")
    assert play.reply_to(ticket) is None
    play.answer("alpha", ALPHA.answer())
    assert play.body_for(ticket) == ALPHA.answer()


def test_a_block_that_was_not_asked_for_is_refused() -> None:
    play = PoolPlaybook()
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.answer("alpha", m.Block("stray", parent="0x" + "bb" * 32).answer())
    play.answer("beta", BETA.answer())
    assert play.body_for(ticket) == BETA.answer()
    assert [(each.source, each.kind) for each in play.all_of(ev.CandidateLost)] == [("alpha", "refused")]


def test_when_nobody_has_a_block_it_says_why() -> None:
    play = PoolPlaybook()
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.fail("alpha", "gone away")
    play.answer("beta", m.error())
    assert b"alpha: lost: alpha: gone away" in play.body_for(ticket)
    assert b"-38001" in play.body_for(ticket)


def test_a_late_payload_id_is_used_while_the_block_is_being_chosen() -> None:
    play = PoolPlaybook()
    play.ask(m.build())
    play.join("beta")
    ticket = play.ask(m.get_payload("0x0b"))
    play.answer("beta", BETA.answer())
    assert play.reply_to(ticket) is None
    play.join("alpha")
    play.answer("alpha", ALPHA.answer())
    assert play.body_for(ticket) == ALPHA.answer()


def test_an_unknown_payload_is_said_to_be_so() -> None:
    play = PoolPlaybook()
    assert answer_of(play, play.ask(m.get_payload("0x99")))["error"] == {"code": -38001, "message": "Unknown payload"}


def test_old_builds_are_forgotten() -> None:
    play = PoolPlaybook(("alpha",))
    for number in range(MAX_BUILDS + 1):
        play.ask(m.build(head=m.block_hash(f"head {number}")))
        play.join("alpha", payload_id=hex(number + 16))
    assert b"-38001" in play.body_for(play.ask(m.get_payload(hex(16))))
    play.ask(m.get_payload(hex(17)))
    assert len(play.all_of(ev.Seal)) == 1


# --- what was promised ---

SHOWN = m.Block("shown", transactions=("0x02bb",))


def test_the_owners_block_keeps_the_promise_and_comes_before_a_richer_one() -> None:
    play = PoolPlaybook()
    play.assembled = SHOWN.assembled("beta")
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.answer("alpha", ALPHA.answer())
    assert play.reply_to(ticket) is None, "the owner is still expected"
    play.answer("beta", BETA.answer())
    assert play.body_for(ticket) == BETA.answer()


def test_without_the_owner_the_flashblocks_themselves_are_the_block() -> None:
    play = PoolPlaybook()
    play.assembled = SHOWN.assembled("beta")
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    play.answer("alpha", ALPHA.answer())
    play.fail("beta")
    assert SHOWN.hash.encode() in play.body_for(ticket)


def test_any_block_that_holds_what_was_shown_is_better_than_the_flashblocks() -> None:
    play = PoolPlaybook()
    play.assembled = SHOWN.assembled("beta")
    play.built()
    ticket = play.ask(m.get_payload("0x0a"))
    holding = m.Block("holding", transactions=("0x02bb", "0x02cc"))
    play.answer("alpha", holding.answer())
    play.fail("beta")
    assert play.body_for(ticket) == holding.answer()


# --- questions to all ---


@pytest.mark.parametrize("body", [m.new_payload(ALPHA), m.forkchoice()])
def test_the_first_valid_is_the_answer(body: bytes) -> None:
    play = PoolPlaybook(("alpha", "beta", "gamma"))
    ticket = play.ask(body)
    is_forkchoice = b"forkchoice" in body
    invalid = m.forkchoice_answer(None, "INVALID") if is_forkchoice else m.verdict("INVALID")
    valid = m.forkchoice_answer() if is_forkchoice else m.verdict()
    play.answer("beta", invalid)
    assert play.reply_to(ticket) is None
    play.answer("gamma", valid)
    assert play.body_for(ticket) == valid
    play.answer("alpha", invalid)
    assert len(play.all_of(ev.Reply)) == 1


ANSWERS = [m.verdict("SYNCING"), m.verdict("INVALID"), m.error(), None]


@pytest.mark.parametrize("best", range(4))
def test_of_answers_that_disagree_the_mildest_counts(best: int) -> None:
    play = PoolPlaybook()
    ticket = play.ask(m.new_payload(ALPHA))
    for builder, answer in (("alpha", ANSWERS[-1]), ("beta", ANSWERS[best])):
        if answer is None:
            play.fail(builder)
        else:
            play.answer(builder, answer)
    assert play.body_for(ticket) == (
        ANSWERS[best] or m.error(-32603, "no builder answered").replace(b": ", b":").replace(b", ", b",")
    )


def test_ill_builders_are_told_but_not_waited_for() -> None:
    play = PoolPlaybook()
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    ticket = play.ask(m.new_payload(ALPHA))
    assert len(play.calls("alpha")) == 1
    play.answer("beta", m.verdict("SYNCING"))
    assert play.body_for(ticket) == m.verdict("SYNCING")


def test_a_head_is_one_that_a_builder_called_valid() -> None:
    play = PoolPlaybook()
    play.built()
    play.ask(m.get_payload("0x0a"))
    play.answer("alpha", ALPHA.answer())
    play.answer("beta", BETA.answer())
    play.ask(m.forkchoice(ALPHA.hash))
    play.answer("alpha", m.forkchoice_answer())
    assert play.machine.head == ALPHA.hash
    assert play.all_of(HeadChanged)[-1] == HeadChanged(ALPHA.hash, ALPHA.number)
    play.answer("beta", m.forkchoice_answer(None, "SYNCING"))
    play.ask(m.forkchoice(BETA.hash))
    play.answer("alpha", m.forkchoice_answer(None, "SYNCING"))
    play.answer("beta", m.forkchoice_answer(None, "SYNCING"))
    assert play.machine.head == ALPHA.hash


def test_questions_give_way_when_a_builder_is_behind_and_orders_do_not() -> None:
    play = PoolPlaybook(("alpha",))
    for body in (m.new_payload(ALPHA), m.forkchoice(), m.build()):
        play.ask(body)
    kinds = [(order.builds, order.latest_only) for order in play.all_of(SendInOrder)]
    assert kinds == [(False, None), (False, "forkchoice"), (True, None)]


# --- everything else ---


def test_other_methods_go_to_the_first_healthy_builder_and_back_as_they_came() -> None:
    play = PoolPlaybook()
    first = play.ask(m.request("eth_chainId", []))
    play.answer("alpha", b"<html>", status=502)
    reply = play.reply_to(first)
    assert reply is not None
    assert (reply.status, reply.body) == (502, b"<html>")
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    second = play.ask(m.request("eth_chainId", []))
    assert play.calls("alpha") == []
    play.fail("beta")
    assert b"beta: gone" in play.body_for(second)


def test_transactions_are_mirrored_to_all_the_others() -> None:
    play = PoolPlaybook(("alpha", "beta", "gamma"))
    play.tell(ev.HealthChanged(frozenset({"alpha"})))
    ticket = play.ask(m.request("eth_sendRawTransaction", ["0x02"]))
    [copy] = play.all_of(ev.Copy)
    assert (copy.skip, copy.lasting, copy.in_order) == (frozenset({"beta"}), False, False)
    play.answer("beta", m.result("0xhash"))
    assert play.body_for(ticket) == m.result("0xhash")


def test_miner_settings_last_for_all() -> None:
    play = PoolPlaybook()
    play.ask(m.request("miner_setGasLimit", ["0x1"]))
    [copy] = play.all_of(ev.Copy)
    assert (copy.skip, copy.lasting, copy.latest_only) == (frozenset(), True, "miner_setGasLimit")
    assert len(play.calls("alpha")) == 1


# --- the promise ---


@settings(max_examples=150)
@given(st.data())
def test_builders_never_build_two_orders_on_one_parent_and_every_request_is_answered(data: st.DataObject) -> None:
    """Two sequencers, any interleaving of orders, answers, failures and getPayload."""
    play = PoolPlaybook(("alpha", "beta", "gamma"), data.draw(st.sampled_from(["builder", "max_value"])))
    blocks = iter(range(10_000))
    tickets: list[ev.Ticket] = []
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["order", "rival", "get", "time", "resolve", "resolve", "resolve"]))
        if action in {"order", "rival"}:
            head = data.draw(st.sampled_from([m.PARENT, m.block_hash("next")]))
            tickets.append(play.ask(m.build(head) if action == "order" else other_build(head)))
        elif action == "get":
            tickets.append(play.ask(m.get_payload(data.draw(st.sampled_from(["0x0a", "0x0b", "0x0c"])))))
        elif action == "time":
            play.pass_time(data.draw(st.sampled_from([0.1, 1.0])))
        elif play.open:
            _resolve(play, data, next(blocks))
        _check_parents(play)
    while play.open:
        _resolve(play, data, next(blocks))
    play.pass_time(1.0)
    assert [ticket for ticket in tickets if play.reply_to(ticket) is None] == []
    assert play.machine.open_calls == 0


def _resolve(play: PoolPlaybook, data: st.DataObject, number: int) -> None:
    call = data.draw(st.sampled_from(play.open))
    assert isinstance(call, ev.Send | SendInOrder)
    builder = call.builder if isinstance(call, SendInOrder) else call.upstream
    play.open.remove(call)
    if data.draw(st.integers(0, 4)) == 0:
        play.tell(ev.Failed(call.call_id, "gone"))
        return
    ids = {"alpha": "0x0a", "beta": "0x0b", "gamma": "0x0c"}
    body = m.forkchoice_answer(ids[builder]) if isinstance(call, SendInOrder) else m.Block(f"b{number}").answer()
    play.tell(ev.Answered(call.call_id, builder, 200, body))


def _check_parents(play: PoolPlaybook) -> None:
    """What is being built now, by what the stream was told: never two on one parent."""
    alive = {each.build.build_id: each.build.parent_hash for each in play.all_of(BuildStarted)}
    for over in play.all_of(BuildAbandoned):
        alive.pop(over.build_id, None)
    for sealed in play.all_of(ev.Seal):
        alive.pop(sealed.build_id, None)
    assert len(set(alive.values())) == len(alive)
