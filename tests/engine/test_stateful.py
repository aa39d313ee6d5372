"""The multiplexer against a simple oracle, under anything that may happen in any order.

The oracle knows nothing of phases, selections or policies. It writes down what the EL said and which orders were
given in which mode, and from that alone it says what may not happen:

* a block that is neither the EL's own nor called VALID by the EL goes out, or one that was not asked for;
* a builder's block goes out for orders that were given in a dry run, or after a switch to disabled;
* a builder hears anything while builders are switched off; a stream is told of a build that cannot land;
* op-node gets an error, or waits past the deadline, although the EL has given a block;
* the same payload asked for twice gives two blocks, with neither a new order nor that switch in between.
"""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.domain.assembled import AssembledPayload
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.builds import MAX_BUILDS
from appliance.engine.events import EL, CallId, Copy, Send, SendInOrder, Ticket, Validate
from tests.engine import messages as m
from tests.engine.playbook import Call, Playbook

BUILDERS = ("alpha", "beta")
DEADLINE_S = 1.0
SLOTS = (m.TIMESTAMP, m.TIMESTAMP + 2, m.TIMESTAMP + 4)
MODES = st.sampled_from(ExecutionMode)
POOL = [(), ("0x02aa",), ("0x02aa", "0x02ab"), ("0x02ba",)]
ENABLED, DRY_RUN, DISABLED = ExecutionMode.ENABLED, ExecutionMode.DRY_RUN, ExecutionMode.DISABLED


def el_id(slot: int) -> str:
    """The EL's payload id is made of the attributes, so the same order has the same id."""
    return f"0xe{SLOTS.index(slot)}"


def own_block(slot: int) -> m.Block:
    """The EL's own block of a slot: always the same one."""
    return m.Block(f"own {slot}", timestamp=slot, number=SLOTS.index(slot), transactions=("0x02ee",))


@dataclass
class Waiting:
    """A getPayload that op-node waits for; ``call`` is the one to the EL that it made (who joins makes none)."""

    slot: int
    since: float
    era: int
    call: CallId | None = None
    el_has_answered: bool = False


class Stream(Playbook):
    """A playbook whose flashblock stream keeps its word: sealed twice, the same block."""

    def __init__(self, policy: str) -> None:
        super().__init__(BUILDERS, policy, DEADLINE_S)
        self.offer: AssembledPayload | None = None
        self.told: dict[BuildId, AssembledPayload | None] = {}

    def sealed(self, build_id: BuildId) -> AssembledPayload | None:
        return self.told.setdefault(build_id, self.offer)


class EngineMachine(RuleBasedStateMachine):
    """Rules are what op-node, upstreams, time and operators do."""

    @initialize(policy=st.sampled_from(["builder", "gas_used"]))
    def begin(self, policy: str) -> None:
        self.play: Stream = self.make_play(policy)
        self.mode = ENABLED
        self.valid: set[str] = set()
        self.own = {own_block(slot).hash for slot in SLOTS}
        self.enabled_orders: set[int] = set()  # slots ordered while enabled, since the last switch to disabled
        self.waiting: dict[Ticket, Waiting] = {}
        # Within an era, no order was answered and no build was switched off: the same payload is the same block.
        self.era = 0
        self.answers: dict[int, str] = {}
        self.blocks = self.read = self.builds = 0

    def make_play(self, policy: str) -> Stream:
        """The machine and its flashblock stream."""
        return Stream(policy)

    # --- op-node ---

    @rule(slot=st.sampled_from(SLOTS))
    def order_build(self, slot: int) -> None:
        if self.mode is ENABLED:
            self.enabled_orders.add(slot)
        self.play.ask(m.build(timestamp=slot))

    @rule(
        slot=st.sampled_from(SLOTS),
        identifier=st.integers(0, 2),
        pool=st.sampled_from(POOL),
        flashblocks=st.sampled_from(["none", "unproven", "validated", "another slot's"]),
    )
    def ask_payload(self, slot: int, identifier: int, pool: tuple[str, ...], flashblocks: str) -> None:
        self.play.offer = self.assembled(slot, pool, flashblocks)
        # The reply may come within the call, so the oracle must know of the ticket before.
        waiting = self.waiting[Ticket(self.play.tickets + 1)] = Waiting(slot, self.play.now, self.era)
        before = len(self.play.calls(EL))
        self.play.ask(m.get_payload(el_id(slot), identifier=identifier))
        if len(self.play.calls(EL)) > before:
            waiting.call = self.play.calls(EL)[-1].call_id

    @rule(slot=st.sampled_from(SLOTS), data=st.data())
    def a_build_that_all_take_up_is_asked_for(self, slot: int, data: st.DataObject) -> None:
        """The usual way, which chance alone would seldom find."""
        self.order_build(slot)
        self.answer_all(data)
        self.the_promises_hold()
        self.ask_payload(slot, 1, (), "none")

    @rule(slot=st.sampled_from(SLOTS))
    def new_payload_and_forkchoice(self, slot: int) -> None:
        self.play.ask(m.new_payload(own_block(slot)))
        self.play.ask(m.forkchoice(own_block(slot).hash))

    # --- upstreams ---

    @rule(data=st.data())
    def an_upstream_fails(self, data: st.DataObject) -> None:
        if self.play.open:
            call = self.take(data)
            self.play.tell(ev.Failed(call.call_id, "gone"))

    @rule(data=st.data(), kind=st.sampled_from(["good", "good", "good", "error", "garbage", "status"]))
    def an_upstream_answers(self, data: st.DataObject, kind: str) -> None:
        if self.play.open:
            self.answer(self.take(data), kind, data)

    @rule(data=st.data())
    def the_el_answers(self, data: st.DataObject) -> None:
        calls = self.play.calls(EL)
        if calls:
            call = data.draw(st.sampled_from(calls))
            self.play.open.remove(call)
            self.answer(call, "good", data)

    @rule(data=st.data())
    def all_upstreams_answer(self, data: st.DataObject) -> None:
        self.answer_all(data)

    # --- the rest of the world ---

    @rule(seconds=st.sampled_from([0.05, 0.5, DEADLINE_S]))
    def time_passes(self, seconds: float) -> None:
        self.play.pass_time(seconds)

    @rule(mode=MODES)
    def somebody_throws_the_switch(self, mode: ExecutionMode) -> None:
        self.mode = mode
        if mode is DISABLED:
            self.enabled_orders.clear()
            self.begin_era()
        self.play.switch(mode)

    # --- how upstreams answer ---

    def answer_all(self, data: st.DataObject) -> None:
        """What is open now, builders first: their blocks are there when the EL's comes."""
        for call in sorted(self.play.open, key=lambda call: isinstance(call, Send) and call.upstream == EL):
            if call in self.play.open:
                self.play.open.remove(call)
                self.answer(call, "good", data)
                self.the_promises_hold()

    def take(self, data: st.DataObject) -> Call:
        call = data.draw(st.sampled_from(self.play.open))
        self.play.open.remove(call)
        return call

    def answer(self, call: Call, kind: str, data: st.DataObject) -> None:
        if isinstance(call, Validate):
            self.judge(call, kind)
            return
        upstream = call.builder if isinstance(call, SendInOrder) else call.upstream
        request = json.loads(call.body)
        if kind == "garbage":
            body = b"?"
        elif kind == "error":
            body = m.error(identifier=request["id"])
        elif request["method"].startswith("engine_forkchoice"):
            body = self.forkchoice_answer(upstream, request, kind)
        elif request["method"].startswith("engine_newPayload"):
            body = m.verdict()
        else:
            body = self.payload_answer(call.call_id, upstream, request, data)
        self.play.tell(ev.Answered(call.call_id, upstream, 200, body))

    def judge(self, call: Validate, kind: str) -> None:
        body = {"good": m.verdict(), "status": m.verdict("SYNCING"), "error": m.error(), "garbage": b"?"}[kind]
        if kind == "good":
            self.valid.add(call.block.block_hash)
        self.play.tell(ev.Answered(call.call_id, EL, 200, body))

    def forkchoice_answer(self, upstream: str, request: Any, kind: str) -> bytes:
        attributes = request["params"][1]
        if kind == "status":
            return m.forkchoice_answer(None, "SYNCING", request["id"])
        if attributes is None:
            return m.forkchoice_answer(None, identifier=request["id"])
        slot = int(attributes["timestamp"], 16)
        if upstream != EL:
            return m.forkchoice_answer(f"0xb{SLOTS.index(slot)}", identifier=request["id"])
        self.begin_era()
        return m.forkchoice_answer(el_id(slot), identifier=request["id"])

    def payload_answer(self, call_id: CallId, upstream: str, request: Any, data: st.DataObject) -> bytes:
        slot = SLOTS[int(request["params"][0][-1])]
        if upstream != EL:
            wanted = data.draw(st.sampled_from([slot, slot, slot, SLOTS[0]]))
            return self.foreign_block(wanted, data).answer(request["id"])
        for waiting in self.waiting.values():
            waiting.el_has_answered |= waiting.call == call_id
        return own_block(slot).answer(request["id"])

    def foreign_block(self, slot: int, data: st.DataObject) -> m.Block:
        self.blocks += 1
        return m.Block(
            f"foreign {self.blocks}",
            timestamp=slot,
            gas_used=data.draw(st.sampled_from([1_000, 1_000_000])),
            deposits=data.draw(st.sampled_from([(m.DEPOSIT,), (m.DEPOSIT,), (m.DEPOSIT,), ()])),
            transactions=data.draw(st.sampled_from(POOL)),
        )

    def assembled(self, slot: int, pool: tuple[str, ...], kind: str) -> AssembledPayload | None:
        if kind == "none":
            return None
        self.blocks += 1
        timestamp = slot + 2 if kind == "another slot's" else slot
        block = m.Block(f"assembled {self.blocks}", timestamp=timestamp, transactions=pool)
        if kind == "validated":
            self.valid.add(block.hash)
        return block.assembled(validated=kind == "validated")

    # --- what the oracle says ---

    def begin_era(self) -> None:
        self.era += 1
        self.answers.clear()

    @invariant()
    def the_promises_hold(self) -> None:
        self.what_was_ordered_since_is_allowed()
        self.nobody_waits_in_vain()

    def what_was_ordered_since_is_allowed(self) -> None:
        fresh, self.read = self.play.log[self.read :], len(self.play.log)
        for command in fresh:
            if isinstance(command, ev.Reply):
                self.check_reply(command)
            elif isinstance(command, ev.BuildStarted):
                assert self.mode is ENABLED, "a stream for a build that cannot land"
                self.builds += 1
                if self.builds > MAX_BUILDS:
                    self.begin_era()  # an old one is forgotten
            elif isinstance(command, ev.BuildConfirmed | ev.BuilderJoined | Copy | SendInOrder | ev.Announce):
                assert self.mode is not DISABLED, f"{command} while builders are switched off"
            elif isinstance(command, Send):
                assert self.mode is not DISABLED or command.upstream == EL

    def check_reply(self, reply: ev.Reply) -> None:
        waiting = self.waiting.pop(reply.ticket, None)
        if waiting is None:
            return  # not a getPayload
        answer = json_or_none(reply.body)
        if not isinstance(answer, dict) or "result" not in answer:
            assert not waiting.el_has_answered, "an error, although the EL has given a block"
            return
        payload = answer["result"]["executionPayload"]
        self.check_block(waiting.slot, payload)
        if waiting.era != self.era:
            return
        expected = self.answers.setdefault(waiting.slot, payload["blockHash"])
        assert payload["blockHash"] == expected, "asked twice, two blocks"

    def check_block(self, slot: int, payload: Any) -> None:
        assert int(payload["timestamp"], 16) == slot, "not the block that was asked for"
        if payload["blockHash"] in self.own:
            return
        assert payload["blockHash"] in self.valid, "returned without the EL's VALID"
        assert payload["transactions"][:1] == [m.DEPOSIT], "without what the attributes force"
        assert self.mode is not DISABLED, "a builder's block, switched off"
        assert slot in self.enabled_orders, "a builder's block of a dry run, or of before the switch"

    def nobody_waits_in_vain(self) -> None:
        for waiting in self.waiting.values():
            overdue = self.play.now >= waiting.since + DEADLINE_S
            assert not (waiting.el_has_answered and overdue), "held past the deadline"
            assert not (waiting.el_has_answered and self.mode is DISABLED), "held by builders, switched off"

    def teardown(self) -> None:
        """Every call ends somehow, then all have their answers and nothing is left behind."""
        if not hasattr(self, "play"):
            return
        while self.play.open:
            self.play.tell(ev.Failed(self.play.open.pop(0).call_id, "gone"))
            self.what_was_ordered_since_is_allowed()
        self.play.pass_time(2 * DEADLINE_S)
        while self.play.open:
            self.play.tell(ev.Failed(self.play.open.pop(0).call_id, "gone"))
        self.what_was_ordered_since_is_allowed()
        assert self.waiting == {}
        assert self.play.machine.open_calls == 0


def json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=40)
