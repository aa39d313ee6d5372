"""The multiplexer as a playbook: forkchoice, newPayload, mirrored and other methods."""

import json

import pytest

from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.events import EL, Copy, Reply, Send, SendInOrder
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


def test_a_build_is_started_everywhere_and_answered_when_the_el_answers(play: Playbook) -> None:
    ticket = play.ask(m.build())
    started, *sent = play.new()
    assert isinstance(started, ev.BuildStarted)
    assert started.build.builders == ("alpha", "beta")
    assert (started.build.parent_hash, started.build.timestamp) == (m.PARENT, m.TIMESTAMP)
    assert [type(command) for command in sent] == [Send, SendInOrder, SendInOrder]
    assert {call.body for call in play.open if not isinstance(call, ev.Validate)} == {m.build()}

    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert play.new() == [
        Reply(ticket, m.forkchoice_answer("0x0e")),
        ev.HeadChanged(m.PARENT, None),
        ev.BuildConfirmed(started.build.build_id),
    ]


def test_builders_join_with_their_own_payload_ids_whenever_they_answer(play: Playbook) -> None:
    play.ask(m.build())
    play.answer("beta", m.forkchoice_answer("0x0B"))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    build_id = play.all_of(ev.BuildStarted)[0].build.build_id
    joined = play.all_of(ev.BuilderJoined)
    assert [(each.build_id, each.builder, each.payload_id) for each in joined] == [
        (build_id, "beta", "0x0b"),
        (build_id, "alpha", "0x0a"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (m.forkchoice_answer(None, "SYNCING"), 200, "alpha said SYNCING, no payload id"),
        (m.forkchoice_answer(None, "VALID"), 200, "alpha said VALID, no payload id"),
        (m.forkchoice_answer("0x0a", "SYNCING"), 200, "alpha said SYNCING, no payload id"),
        (m.error(-38003, "bad attributes"), 200, "forkchoiceUpdated refused: -38003 bad attributes"),
        (b"garbage", 200, "forkchoiceUpdated answer"),
        (b"oops", 500, "HTTP 500 oops"),
    ],
)
def test_a_builder_that_does_not_build_is_absent(play: Playbook, body: bytes, status: int, reason: str) -> None:
    play.ask(m.build())
    play.answer("alpha", body, status=status)
    (absent,) = play.all_of(ev.BuilderAbsent)
    assert absent.builder == "alpha"
    assert reason in absent.reason
    assert play.all_of(ev.BuilderJoined) == []


def test_no_tx_pool_goes_to_the_el_alone(play: Playbook) -> None:
    play.ask(m.build(no_tx_pool=True))
    started, send = play.new()
    assert isinstance(started, ev.BuildStarted)
    assert started.build.builders == ()
    assert isinstance(send, Send)
    assert send.upstream == EL


def test_no_tx_pool_false_is_an_ordinary_build(play: Playbook) -> None:
    play.ask(m.build(no_tx_pool=False))
    assert play.all_of(ev.BuildStarted)[0].build.builders == ("alpha", "beta")


@pytest.mark.parametrize("status", ["SYNCING", "ACCEPTED"])
def test_a_build_that_the_el_does_not_take_up_is_abandoned(play: Playbook, status: str) -> None:
    ticket = play.ask(m.build())
    play.answer(EL, m.forkchoice_answer(None, status))
    build_id = play.all_of(ev.BuildStarted)[0].build.build_id
    assert play.body_for(ticket) == m.forkchoice_answer(None, status)
    assert play.all_of(ev.BuildAbandoned) == [ev.BuildAbandoned(build_id)]
    assert play.all_of(ev.BuildConfirmed) == []
    assert play.all_of(ev.HeadChanged) == []


@pytest.mark.parametrize("body", [m.error(-38003, "Invalid payload attributes"), b"garbage"])
def test_what_the_el_answers_instead_is_passed_on(play: Playbook, body: bytes) -> None:
    ticket = play.ask(m.build())
    play.answer(EL, body)
    assert play.body_for(ticket) == body
    assert len(play.all_of(ev.BuildAbandoned)) == 1


@pytest.mark.parametrize("body", [m.forkchoice(), m.build()])
def test_invalid_forkchoice_becomes_an_error_with_the_status_as_data(play: Playbook, body: bytes) -> None:
    ticket = play.ask(body)
    play.answer(EL, m.forkchoice_answer(None, "INVALID"))
    answer = json.loads(play.body_for(ticket))
    assert answer["error"]["code"] == INTERNAL_ERROR
    assert answer["error"]["message"] == "Invalid payload: INVALID"
    assert answer["error"]["data"]["status"] == "INVALID"
    assert play.all_of(ev.HeadChanged) == []


def test_an_el_that_is_down_abandons_the_build(play: Playbook) -> None:
    ticket = play.ask(m.build(identifier="f"))
    play.fail(EL)
    assert json.loads(play.body_for(ticket))["id"] == "f"
    assert len(play.all_of(ev.BuildAbandoned)) == 1
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    assert play.all_of(ev.BuildConfirmed) == []


def test_a_newer_build_abandons_the_one_before(play: Playbook) -> None:
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.new()
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    first, second = play.all_of(ev.BuildStarted)
    assert play.new()[:2] == [ev.BuildAbandoned(first.build.build_id), second]
    assert second.build.build_id > first.build.build_id


def test_an_answer_to_an_abandoned_build_confirms_nothing(play: Playbook) -> None:
    play.ask(m.build())
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert play.all_of(ev.BuildConfirmed) == []
    play.answer(EL, m.forkchoice_answer("0x0f"))
    assert [each.build_id for each in play.all_of(ev.BuildConfirmed)] == [2]


def test_the_same_order_twice_is_one_build(play: Playbook) -> None:
    first, second = play.ask(m.build(identifier=1)), play.ask(m.build(identifier=2))
    assert len(play.all_of(ev.BuildStarted)) == 1
    assert len(play.calls(EL)) == 2
    assert len(play.calls("alpha")) == 1
    play.answer(EL, m.forkchoice_answer("0x0e", identifier=1))
    play.answer(EL, m.forkchoice_answer("0x0e", identifier=2))
    assert json.loads(play.body_for(first))["id"] == 1
    assert json.loads(play.body_for(second))["id"] == 2
    assert len(play.all_of(ev.BuildConfirmed)) == 1
    assert play.all_of(ev.BuildAbandoned) == []


def test_the_same_order_again_asks_only_builders_that_are_absent(play: Playbook) -> None:
    play.ask(m.build())
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    play.fail("beta")
    play.ask(m.build())
    assert play.calls("alpha") == []
    assert len(play.calls("beta")) == 1
    play.answer("beta", m.forkchoice_answer("0x0b"))
    assert [each.builder for each in play.all_of(ev.BuilderJoined)] == ["alpha", "beta"]


def test_a_refused_order_can_be_given_again(play: Playbook) -> None:
    play.ask(m.build())
    play.fail(EL)
    play.ask(m.build())
    assert len(play.all_of(ev.BuildStarted)) == 2
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert [each.build_id for each in play.all_of(ev.BuildConfirmed)] == [2]


def test_a_confirmed_build_survives_a_retry_that_fails(play: Playbook) -> None:
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.ask(m.build())
    play.fail(EL)
    assert play.all_of(ev.BuildAbandoned) == []


def test_outcomes_of_calls_that_are_not_open_do_nothing(play: Playbook) -> None:
    play.tell(ev.Answered(ev.CallId(99), "l2", 200, b"{}"))
    play.tell(ev.Failed(ev.CallId(99), "x"))
    play.tell(ev.Sealed(BuildId(99), None))
    play.tell(ev.DeadlinePassed(BuildId(99)))
    assert play.log == []
    assert play.machine.open_calls == 0
