"""What networks, clocks and restarts do to a sequencer: still a block, and the same one when asked again."""

import json

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from appliance.domain.health import Health
from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.events import EL, Send
from appliance.engine.frontend import Frontend
from appliance.engine.metrics import EngineMetrics
from appliance.net.http import Headers, HttpRequest
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import RecordingStream, accepts, answers, block, gated
from tests.engine.playbook import Playbook
from tests.engine.rig import EL_ID, LOCAL, SECRET, block_of, rig
from tests.engine.test_get_payload import ALPHA, BETA, building

NOW = 1_700_000_000.0


# --- getPayload before the answer to the order ---


def test_a_get_payload_before_the_answer_to_the_order_waits_for_it_and_gets_the_builders_block() -> None:
    """A second op-node, or the first one trying again, may know the id before the EL has answered us."""
    play = Playbook(("alpha",))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x0e"))
    assert len(play.calls(EL)) == 1, "only the order"
    play.answer("alpha", m.forkchoice_answer("0x00"))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


def test_its_deadline_counts_from_when_it_was_asked() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.ask(m.get_payload("0x0e"))
    asked_at, play.now = play.now, play.now + 0.4
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert [alarm.at for alarm in play.alarms] == [asked_at + 1.0]


@pytest.mark.parametrize("answer", [m.forkchoice_answer("0x77"), m.forkchoice_answer(None, "SYNCING"), m.error(), b"?"])
def test_when_the_order_brings_another_id_or_none_the_el_is_asked(answer: bytes) -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x0e"))
    play.answer(EL, answer)
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


def test_when_the_order_fails_the_el_is_asked_all_the_same() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x0e"))
    play.fail(EL)
    play.answer(EL, LOCAL.answer())
    assert play.body_for(ticket) == LOCAL.answer()


def test_it_waits_while_any_order_is_open_but_for_none_that_has_been_answered() -> None:
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.ask(m.build(timestamp=m.TIMESTAMP + 2))
    play.ask(m.get_payload("0x0f"))
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert [json.loads(call.body)["method"] for call in play.calls(EL)] == ["engine_forkchoiceUpdatedV3"]
    play.answer(EL, m.forkchoice_answer("0x0f"))
    assert [json.loads(call.body)["method"] for call in play.calls(EL)] == ["engine_getPayloadV4"]


def test_a_known_id_waits_for_the_same_order_that_is_open_again_and_fences_that_build() -> None:
    """Else the new build's stream would go on, and show flashblocks of a block that was answered already."""
    play = Playbook(("alpha",))
    for timestamp, payload_id in ((m.TIMESTAMP, "0x0e"), (m.TIMESTAMP + 2, "0x0f")):
        play.ask(m.build(timestamp=timestamp))
        play.answer(EL, m.forkchoice_answer(payload_id))
        play.answer("alpha", m.forkchoice_answer("0x0a"))
    play.ask(m.build())
    ticket = play.ask(m.get_payload("0x0e"))
    assert play.all_of(ev.Seal) == []
    play.answer(EL, m.forkchoice_answer("0x0e"))
    assert play.all_of(ev.Seal) == [ev.Seal(BuildId(3))]
    play.answer(EL, m.Block("local").answer())
    play.fail("alpha")
    assert play.reply_to(ticket) is not None


def test_when_the_same_order_fails_the_build_before_it_answers() -> None:
    play = Playbook(("alpha",))
    for timestamp, payload_id in ((m.TIMESTAMP, "0x0e"), (m.TIMESTAMP + 2, "0x0f")):
        play.ask(m.build(timestamp=timestamp))
        play.answer(EL, m.forkchoice_answer(payload_id))
    play.ask(m.build())
    play.ask(m.get_payload("0x0e"))
    play.fail(EL)
    assert play.all_of(ev.Seal) == [ev.Seal(BuildId(1))]


def test_a_version_of_the_future_passes_before_during_and_after_the_order() -> None:
    play = Playbook(("alpha",))
    body = m.get_payload("0x0e", version=6)
    for step in (lambda: None, lambda: play.ask(m.build()), lambda: play.answer(EL, m.forkchoice_answer("0x0e"))):
        step()
        ticket = play.ask(body)
        if len(play.calls(EL)) and json.loads(play.calls(EL)[0].body)["method"].startswith("engine_forkchoice"):
            continue
        for call in list(play.calls(EL)):
            assert call.body == body
            play.answer(EL, m.result({"executionPayloadV6": "0x"}))
        assert play.body_for(ticket) == m.result({"executionPayloadV6": "0x"})
    assert not [call for call in play.all_of(Send) if call.upstream == "alpha"]


# --- ids that overlap ---


def test_an_answer_that_was_overtaken_does_not_take_the_id_from_the_newer_build() -> None:
    """The same attributes on another forkchoice: two builds of ours, one id of the EL's, answers out of order."""
    play = Playbook(("alpha",))
    first = m.request("engine_forkchoiceUpdatedV3", [m.state(m.PARENT), json.loads(m.build())["params"][1]])
    moved = {**m.state(m.PARENT), "finalizedBlockHash": "0x" + "00" * 32}
    second = m.request("engine_forkchoiceUpdatedV3", [moved, json.loads(m.build())["params"][1]])
    play.ask(first)
    play.ask(second)
    play.answer("alpha", m.forkchoice_answer("0x0a"))
    play.answer("alpha", m.forkchoice_answer("0x0b"))
    play.answer(EL, m.forkchoice_answer("0x0e"), nth=1)
    play.answer(EL, m.forkchoice_answer("0x0e"), nth=0)
    play.ask(m.get_payload("0x0e"))
    (call,) = play.calls("alpha")
    assert json.loads(call.body)["params"] == ["0x0b"], "the builder's newest build"


def test_two_payload_ids_for_one_block_are_both_answered_with_it() -> None:
    """The EL gives two ids, the builder makes the same block for both: a reported fault left the sequencer stuck."""
    play = Playbook(("alpha",))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0x0e"))
    play.answer("alpha", m.forkchoice_answer("0x00"))
    again = json.loads(m.build())
    again["params"][0]["safeBlockHash"] = m.block_hash("safe")
    first = play.ask(m.get_payload("0x0e"))
    play.ask(json.dumps(again).encode())
    play.answer(EL, m.forkchoice_answer("0x0f"), nth=1)
    play.answer("alpha", m.forkchoice_answer("0x00"), nth=1)
    second = play.ask(m.get_payload("0x0f"))
    for ticket in (first, second):
        play.answer("alpha", ALPHA.answer())
        play.judge(m.verdict())
        assert play.body_for(ticket) == ALPHA.answer()
    play.ask(m.forkchoice(ALPHA.hash))
    play.answer(EL, m.forkchoice_answer(), nth=2)
    assert play.all_of(ev.HeadChanged)[-1] == ev.HeadChanged(ALPHA.hash, ALPHA.number)


# --- an EL that restarts ---


def test_an_el_that_forgot_the_payload_while_it_restarted_is_helped_out_by_a_builder() -> None:
    play = building(("alpha",))
    ticket = play.ask(m.get_payload())
    play.answer(EL, m.error(-38001))
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


async def test_an_el_that_restarts_in_the_middle_of_a_slot_costs_that_answer_and_the_retry_has_a_block() -> None:
    stream = RecordingStream()
    async with rig("alpha", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha")
        await it.el.stop()
        answer = json.loads(await it.ask(m.get_payload(EL_ID)))
        assert answer["error"]["code"] == -32603, "op-node tries again"
        await it.nursery.start(it.el.run)
        assert await it.ask(m.get_payload(EL_ID, identifier=2)) == block_of("alpha").answer(2)
        await it.ask(m.build(timestamp=m.TIMESTAMP + 2))
        later = m.Block("later", timestamp=m.TIMESTAMP + 2)
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = block(later)
        assert await it.ask(m.get_payload(EL_ID, identifier=3)) == later.answer(3)


async def test_a_get_payload_that_races_the_order_over_real_sockets_gets_the_builders_block() -> None:
    gate, stream = trio.Event(), RecordingStream()
    async with rig("alpha", stream=stream) as it:
        it.el.behaviours["engine_forkchoiceUpdatedV3"] = gated(gate, accepts(EL_ID))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.order_build)
            await it.joined(stream, "alpha")

            async def ask() -> None:
                assert await it.ask(m.get_payload(EL_ID)) == block_of("alpha").answer()

            nursery.start_soon(ask)
            await it.waiting(2)
            assert it.el.bodies("engine_getPayloadV4") == []
            gate.set()


# --- large blocks ---


async def test_five_megabytes_from_el_and_builder_come_through_and_asked_twice_are_the_same() -> None:
    stream = RecordingStream()
    transactions = tuple("0x02" + f"{number:04x}" * 1250 for number in range(1000))
    large, own = m.Block("large", transactions=transactions), m.Block("own", transactions=transactions)
    async with rig("alpha", stream=stream) as it:
        assert len(large.answer()) > 5_000_000
        it.builders["alpha"].behaviours["engine_getPayloadV4"] = block(large)
        it.el.behaviours["engine_getPayloadV4"] = block(own)
        await it.order_build()
        await it.joined(stream, "alpha")
        first = await it.ask(m.get_payload(EL_ID, identifier=1))
        assert first == large.answer(1)
        assert json.loads(await it.ask(m.get_payload(EL_ID, identifier="again"))) == json.loads(large.answer("again"))
        await it.ask(m.new_payload(large))
        assert len((await it.builders["alpha"].wait_for("engine_newPayloadV4"))[0]) > 5_000_000


# --- clocks ---


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


async def frontend_status(clock: Clock, issued_at: float) -> int:
    async def ask(*_: object) -> ev.Reply:
        return ev.Reply(ev.Ticket(1), b"{}")

    metrics = EngineMetrics.create(CollectorRegistry())
    frontend = Frontend(SECRET, ask, lambda: Health.OK, metrics, wall_clock=clock)
    token = Headers({"authorization": f"Bearer {jwt.sign(SECRET, issued_at)}"}.items())
    return (await frontend.handle(HttpRequest("POST", "/", token, m.forkchoice(), "127.0.0.1"))).status


@pytest.mark.parametrize("step_s", [-3600.0, -61.0, -30.0, 30.0, 61.0, 3600.0])
async def test_a_clock_that_steps_refuses_what_is_too_far_and_takes_it_again_when_both_agree(step_s: float) -> None:
    """The verdict on a token is not remembered: the same token is judged by the clock of now."""
    clock = Clock()
    assert await frontend_status(clock, NOW) == 200
    clock.now += step_s
    assert await frontend_status(clock, NOW) == (200 if abs(step_s) <= 60 else 401)
    assert await frontend_status(clock, clock.now) == 200
    clock.now -= step_s
    assert await frontend_status(clock, NOW) == 200


def test_after_a_step_back_no_token_is_signed_in_the_future() -> None:
    for now in (NOW + 0.9, NOW - 5.5, NOW - 5.4, NOW + 0.1):
        jwt.verify(SECRET, f"Bearer {jwt.sign(SECRET, now)}", now)
        assert jwt.sign(SECRET, now) == jwt.sign(SECRET, int(now)), "the whole second before"
    assert jwt.sign(SECRET, NOW - 6) != jwt.sign(SECRET, NOW)


def test_no_decision_about_a_block_looks_at_the_wall_clock() -> None:
    """Deadlines are monotonic: a playbook's clock may stand still, and the choice is the same."""
    play = building(("alpha", "beta"))
    ticket = play.ask(m.get_payload())
    play.answer("beta", BETA.answer())
    play.judge(m.verdict())
    play.answer("alpha", ALPHA.answer())
    play.judge(m.verdict())
    assert play.body_for(ticket) == ALPHA.answer()


async def test_an_unknown_get_payload_version_passes_byte_for_byte_over_real_sockets() -> None:
    body = m.get_payload(EL_ID, version=6)
    async with rig("alpha") as it:
        it.el.behaviours["engine_getPayloadV6"] = answers(b'{"jsonrpc":"2.0","id":1,"result":{"v6": 1e400}}')
        await it.order_build()
        assert await it.ask(body) == b'{"jsonrpc":"2.0","id":1,"result":{"v6": 1e400}}'
        assert it.el.bodies("engine_getPayloadV6") == [body]
        assert it.builders["alpha"].bodies("engine_getPayloadV6") == []
