"""The engine's promise: never a block returned that the EL did not call VALID, except the EL's own.

Random interleavings of op-node's requests, answers, refusals, garbage, failures, verdicts and time, driven
through the machine. Along with it: each request is answered exactly once, at the latest when the deadline
has passed and the EL has answered; and a block that is returned is the one that was asked for.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine import events as ev
from appliance.engine.events import EL, SendInOrder, Ticket, Validate
from appliance.engine.policies import POLICIES
from tests.engine import messages as m
from tests.engine.playbook import Playbook

BUILDERS = ("alpha", "beta", "gamma")
DEADLINE_S = 1.0
TIMESTAMPS = (m.TIMESTAMP, m.TIMESTAMP + 2)
STATUSES = ("VALID", "VALID", "INVALID", "SYNCING", "ACCEPTED", "INVALID_BLOCK_HASH", "WELL")


class Adversary:
    """Draws what happens next, and keeps its own simple book of what the EL said."""

    def __init__(self, data: st.DataObject, policy: str) -> None:
        self.draw = data.draw
        self.play = Playbook(BUILDERS, policy, DEADLINE_S)
        self.valid: set[str] = set()
        self.own_words: set[bytes] = set()
        self.orders: dict[str, int] = {}  # the EL's payload id -> timestamp of the build
        self.waiting: dict[Ticket, tuple[str, float]] = {}
        self._blocks = 0

    def step(self) -> None:
        actions = [self.order_build, self.ask_payload, self.pass_time, self.change_health]
        if self.play.open:
            actions += [self.resolve] * 6
        self.draw(st.sampled_from(actions))()
        self.check()

    def order_build(self) -> None:
        timestamp = self.draw(st.sampled_from(TIMESTAMPS))
        self.play.ask(m.build(timestamp=timestamp))

    def ask_payload(self) -> None:
        payload_id = self.draw(st.sampled_from([*self.orders, "0xfe"]))
        self.play.assembled = self.draw(st.sampled_from([None, self.assembled(payload_id)]))
        if self.play.assembled is not None and self.play.assembled.validated:
            self.valid.add(self.play.assembled.block_hash)
        ticket = self.play.ask(m.get_payload(payload_id, identifier=self.draw(st.integers(0, 2))))
        self.waiting[ticket] = (payload_id, self.play.now)

    def change_health(self) -> None:
        unhealthy = frozenset(self.draw(st.sets(st.sampled_from(BUILDERS))))
        ignored = unhealthy if self.draw(st.booleans()) else frozenset()
        self.play.tell(ev.HealthChanged(unhealthy, ignored))

    def pass_time(self) -> None:
        self.play.pass_time(self.draw(st.sampled_from([0.1, 0.5, DEADLINE_S])))

    def resolve(self) -> None:
        call = self.draw(st.sampled_from(self.play.open))
        self.play.open.remove(call)
        if self.draw(st.integers(0, 5)) == 0:
            self.play.tell(ev.Failed(call.call_id, "gone"))
        elif isinstance(call, Validate):
            self.judge(call)
        else:
            upstream = call.builder if isinstance(call, SendInOrder) else call.upstream
            self.answer(call.call_id, upstream, call.body)

    def judge(self, call: Validate) -> None:
        status = self.draw(st.sampled_from(STATUSES))
        http_status = self.draw(st.sampled_from([200, 200, 200, 500]))
        if (status, http_status) == ("VALID", 200):
            self.valid.add(call.block.block_hash)
        self.tell(call.call_id, m.verdict(status), http_status)

    def answer(self, call_id: ev.CallId, upstream: str, request: bytes) -> None:
        call = json.loads(request)
        if call["method"].startswith("engine_forkchoice"):
            body = self.forkchoice_answer(upstream, call)
        else:
            body = self.payload_answer(upstream, call)
        self.tell(call_id, body, 200)

    def forkchoice_answer(self, upstream: str, call: Any) -> bytes:
        if self.draw(st.integers(0, 4)) == 0:
            return self.draw(st.sampled_from([m.forkchoice_answer(None, "SYNCING"), m.error(-38003), b"?"]))
        payload_id = f"0x{BUILDERS.index(upstream):02x}" if upstream != EL else "0xe0"
        if upstream == EL:
            timestamp = int(call["params"][1]["timestamp"], 16)
            payload_id = f"0xe{TIMESTAMPS.index(timestamp)}"
            self.orders[payload_id] = timestamp
        return m.forkchoice_answer(payload_id)

    def payload_answer(self, upstream: str, call: Any) -> bytes:
        kinds = [m.error(identifier=call["id"]), b"?", self.block().answer(identifier=call["id"])]
        body = self.draw(st.sampled_from([*kinds, kinds[2], kinds[2]]))
        if upstream == EL:
            self.own_words.add(body)
        return body

    def block(self) -> m.Block:
        self._blocks += 1
        return m.Block(
            f"block {self._blocks}",
            timestamp=self.draw(st.sampled_from(TIMESTAMPS)),
            gas_used=self.draw(st.sampled_from([1_000, 1_000_000])),
            deposits=self.draw(st.sampled_from([(m.DEPOSIT,), (m.DEPOSIT,), ()])),
            beacon_root=self.draw(st.sampled_from([m.ROOT, m.ROOT, m.ROOT, None])),
            gas_limit=self.draw(st.sampled_from([m.GAS_LIMIT, m.GAS_LIMIT, m.GAS_LIMIT, 1])),
            transactions=self.draw(st.sampled_from([(), ("0x02aa",), ("0x02aa", "0x02ab"), ("0x02ba",)])),
        )

    def assembled(self, payload_id: str) -> Any:
        return self.block().assembled(validated=self.draw(st.booleans()))

    def tell(self, call_id: ev.CallId, body: bytes, status: int) -> None:
        self.play.tell(ev.Answered(call_id, "somewhere", status, body))

    # --- what must hold ---

    def check(self) -> None:
        for ticket in [ticket for ticket in self.waiting if self.play.reply_to(ticket)]:
            payload_id, _ = self.waiting.pop(ticket)
            self.check_block(payload_id, json_or_none(self.play.body_for(ticket)))

    def check_block(self, payload_id: str, answer: Any) -> None:
        if not isinstance(answer, dict) or "result" not in answer:
            return
        if any(same_but_id(answer, json_or_none(words)) for words in self.own_words):
            return
        payload = answer["result"]["executionPayload"]
        assert payload["blockHash"] in self.valid, "returned without the EL's VALID"
        assert int(payload["timestamp"], 16) == self.orders[payload_id], "not the block that was asked for"
        assert answer["result"]["parentBeaconBlockRoot"] == m.ROOT, "op-node would hold another block"
        assert payload["gasLimit"] == hex(m.GAS_LIMIT), "not the block that verifiers derive"
        assert payload["transactions"][:1] == [m.DEPOSIT], "without what the attributes force"


def json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def same_but_id(one: Any, other: Any) -> bool:
    return isinstance(other, dict) and {**one, "id": 0} == {**other, "id": 0}


@settings(max_examples=150)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_no_block_is_returned_that_the_el_did_not_call_valid(data: st.DataObject, policy: str) -> None:
    adversary = Adversary(data, policy)
    for _ in range(data.draw(st.integers(5, 40))):
        adversary.step()
    settle(adversary)


def settle(adversary: Adversary) -> None:
    """All calls end and the deadlines pass: nobody is left waiting."""
    play = adversary.play
    while play.open:
        adversary.resolve()
        adversary.check()
    play.pass_time(2 * DEADLINE_S)
    while play.open:
        adversary.resolve()
    adversary.check()
    assert adversary.waiting == {}
    assert play.machine.open_calls == 0


@settings(max_examples=100)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_the_els_block_is_never_held_past_the_deadline(data: st.DataObject, policy: str) -> None:
    """Whatever builders and verdicts do: once the EL has answered and the deadline is over, op-node has a block."""
    adversary = Adversary(data, policy)
    play = adversary.play
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0xe0"))
    adversary.orders["0xe0"] = m.TIMESTAMP
    ticket = play.ask(m.get_payload("0xe0"))
    play.answer(EL, m.Block("local").answer())
    adversary.own_words.add(m.Block("local").answer())
    adversary.waiting[ticket] = ("0xe0", play.now)
    for _ in range(data.draw(st.integers(0, 12))):
        if play.open:
            adversary.resolve()
    play.pass_time(DEADLINE_S)
    assert play.reply_to(ticket) is not None
    adversary.check()


@settings(max_examples=100)
@given(data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_ill_builders_cost_no_time_at_all(data: st.DataObject, policy: str) -> None:
    """With every builder ill, op-node has a block as soon as the EL has answered: nothing was promised here."""
    play = Playbook(BUILDERS, policy, DEADLINE_S)
    play.tell(ev.HealthChanged(frozenset(BUILDERS)))
    play.ask(m.build())
    play.answer(EL, m.forkchoice_answer("0xe0"))
    for builder in data.draw(st.permutations(BUILDERS)):
        if data.draw(st.booleans()):
            play.answer(builder, m.forkchoice_answer("0x01"))
    ticket = play.ask(m.get_payload("0xe0"))
    for builder in data.draw(st.permutations(BUILDERS)):
        if play.calls(builder) and isinstance(play.calls(builder)[0], ev.Send) and data.draw(st.booleans()):
            play.answer(builder, m.Block(builder, gas_used=data.draw(st.integers(0, 10**9))).answer())
    play.answer(EL, m.Block("local").answer())
    assert play.body_for(ticket) == m.Block("local").answer()
