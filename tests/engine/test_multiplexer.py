"""The multiplexer as a playbook: newPayload, mirrored and other methods, and a forkchoice without an order."""

import json

import pytest

from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.events import EL, Copy, Reply, Send
from appliance.wire.jsonrpc import INTERNAL_ERROR
from tests.engine import messages as m
from tests.engine.playbook import Playbook


@pytest.fixture
def play() -> Playbook:
    return Playbook()


# --- what goes to the EL alone ---


@pytest.mark.parametrize(
    "body",
    [
        m.request("eth_chainId", []),
        m.request("engine_exchangeCapabilities", [["engine_newPayloadV4"]], "x"),
        m.request("engine_getPayloadBodiesByRangeV1", ["0x1", "0x2"], None),
        b'{"id" : 1.50, "method":"a_new_method" }',
    ],
)
def test_other_methods_go_to_the_el_alone_and_come_back_as_they_are(play: Playbook, body: bytes) -> None:
    ticket = play.ask(body)
    assert play.new() == [Send(play.open[0].call_id, EL, body, pass_through=True)]
    play.answer(EL, b"\x00 anything", status=503)
    assert play.new() == [Reply(ticket, b"\x00 anything", 503)]


def test_an_el_that_is_down_is_an_error_that_op_node_takes_for_temporary(play: Playbook) -> None:
    ticket = play.ask(m.request("eth_chainId", [], "my id"))
    play.fail(EL, "cannot connect to http://el:8551")
    answer = json.loads(play.body_for(ticket))
    assert answer["id"] == "my id"
    assert answer["error"] == {"code": INTERNAL_ERROR, "message": "l2: cannot connect to http://el:8551"}
    assert not -38100 < answer["error"]["code"] <= -38000, "op-node resets its engine on those"


@pytest.mark.parametrize("body", [m.forkchoice(), m.build(), m.new_payload(m.Block("b")), m.get_payload("0x77")])
def test_an_el_that_gives_no_answer_is_to_be_probed(play: Playbook, body: bytes) -> None:
    play.ask(body)
    play.fail(EL)
    assert [(each.upstream, each.ok) for each in play.all_of(ev.Produced)] == [(EL, False)]


@pytest.mark.parametrize("body", [m.forkchoice(), m.build(), m.new_payload(m.Block("b")), m.get_payload("0x77")])
def test_an_http_error_of_the_el_is_a_json_rpc_error_for_engine_methods(play: Playbook, body: bytes) -> None:
    ticket = play.ask(body)
    play.answer(EL, b"<html>Bad Gateway</html>", status=502)
    reply = play.reply_to(ticket)
    assert reply is not None
    assert reply.status == 200
    message = json.loads(reply.body)["error"]["message"]
    assert message == "l2 http://el: HTTP 502 <html>Bad Gateway</html>"


# --- new_payload and mirrored methods ---


def test_new_payload_goes_to_everyone_and_the_el_answers(play: Playbook) -> None:
    body = m.new_payload(m.Block("b"))
    ticket = play.ask(body)
    assert play.new() == [Send(play.open[0].call_id, EL, body), Copy(body)]
    play.answer(EL, m.verdict("SYNCING"))
    assert play.body_for(ticket) == m.verdict("SYNCING")


@pytest.mark.parametrize(
    ("method", "latest_only", "lasting"),
    [
        ("eth_sendRawTransaction", None, False),
        ("eth_sendRawTransactionConditional", None, False),
        ("miner_setMaxDASize", "miner_setMaxDASize", True),
        ("miner_setExtra", "miner_setExtra", True),
        ("miner_setGasPrice", "miner_setGasPrice", True),
        ("miner_setGasLimit", "miner_setGasLimit", True),
    ],
)
def test_mirrored_methods_are_answered_by_the_el_and_copied(
    play: Playbook, method: str, latest_only: str | None, lasting: bool
) -> None:
    body = m.request(method, ["0x1"])
    ticket = play.ask(body)
    assert play.new()[1:] == [Copy(body, latest_only, lasting, in_order=False)]
    play.answer(EL, m.error(-32000, "already known"), status=200)
    assert play.body_for(ticket) == m.error(-32000, "already known")


def test_without_builders_nothing_is_copied() -> None:
    play = Playbook(builders=())
    for body in (m.forkchoice(), m.new_payload(m.Block("b")), m.request("miner_setExtra", [])):
        play.ask(body)
    assert play.all_of(Copy) == []


def test_the_number_of_a_head_that_another_sequencer_made_is_known_from_its_new_payload(play: Playbook) -> None:
    block = m.Block("theirs", number=4711)
    play.ask(m.new_payload(block))
    play.ask(m.forkchoice(block.hash))
    play.answer(EL, m.verdict())
    play.answer(EL, m.forkchoice_answer())
    assert play.all_of(ev.HeadChanged) == [ev.HeadChanged(block.hash, 4711)]


# --- forkchoice_updated ---


def test_forkchoice_without_attributes_is_answered_by_the_el_and_copied(play: Playbook) -> None:
    ticket = play.ask(m.forkchoice())
    assert play.new() == [
        Send(play.open[0].call_id, EL, m.forkchoice()),
        Copy(m.forkchoice(), latest_only="forkchoice"),
    ]
    play.answer(EL, m.forkchoice_answer())
    assert play.new() == [Reply(ticket, m.forkchoice_answer()), ev.HeadChanged(m.PARENT, None)]
    assert play.machine.head == m.PARENT


def test_the_same_head_again_is_not_told_again(play: Playbook) -> None:
    for _ in range(2):
        play.ask(m.forkchoice())
        play.answer(EL, m.forkchoice_answer())
    assert play.all_of(ev.HeadChanged) == [ev.HeadChanged(m.PARENT, None)]


def test_outcomes_of_calls_that_are_not_open_do_nothing(play: Playbook) -> None:
    play.tell(ev.Answered(ev.CallId(99), "l2", 200, b"{}"))
    play.tell(ev.Failed(ev.CallId(99), "x"))
    play.tell(ev.Sealed(BuildId(99), None))
    play.tell(ev.DeadlinePassed(BuildId(99)))
    assert play.log == []
    assert play.machine.open_calls == 0
