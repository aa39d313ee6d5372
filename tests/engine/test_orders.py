"""Orders to build, as a playbook: a new one, the same again, and what each answer means."""

import json

import pytest

from appliance.engine import events as ev
from appliance.engine.events import EL, Reply, Send, SendInOrder
from appliance.wire.jsonrpc import INTERNAL_ERROR
from tests.engine import messages as m
from tests.engine.playbook import Playbook


@pytest.fixture
def play() -> Playbook:
    return Playbook()


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
