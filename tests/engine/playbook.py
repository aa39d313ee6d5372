"""A playbook for the multiplexer: events in, commands out, and what the shell guarantees in between."""

from typing import TypeVar

from appliance.domain.assembled import AssembledPayload
from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId
from appliance.engine import events as ev
from appliance.engine.events import EL, CallId, Command, Event, Send, SendInOrder, Ticket, Validate
from appliance.engine.multiplexer import Multiplexer
from appliance.engine.policies import policy_named
from appliance.wire.engine import decode_call
from appliance.wire.jsonrpc import decode_request

Call = Send | SendInOrder | Validate
Kind = TypeVar("Kind")


class Playbook:
    """Drives the machine with a clock of its own; `assembled` is what the stream answers to Seal."""

    def __init__(
        self,
        builders: tuple[str, ...] = ("alpha", "beta"),
        policy: str = "builder",
        deadline_s: float = 1.0,
        mode: ExecutionMode = ExecutionMode.ENABLED,
    ) -> None:
        self.machine = Multiplexer(builders, policy_named(policy), deadline_s, mode)
        self.now = 100.0
        self.assembled: AssembledPayload | None = None
        self.log: list[Command] = []
        self.open: list[Call] = []
        self.alarms: list[ev.WakeAt] = []
        self.tickets = 0
        self._read = 0

    # --- events ---

    def ask(self, body: bytes) -> Ticket:
        """A request of op-node."""
        self.tickets += 1
        ticket = Ticket(self.tickets)
        request = decode_request(body)
        self.tell(ev.Requested(ticket, decode_call(request), bytes(request.id), body))
        return ticket

    def answer(self, upstream: str, body: bytes, *, status: int = 200, nth: int = 0) -> None:
        """The oldest open call of an upstream is answered (the EL's verdicts have `judge`)."""
        self._close(self.calls(upstream)[nth], body, status)

    def judge(self, body: bytes, *, status: int = 200) -> None:
        """The open validation is answered."""
        self._close(self.validations()[0], body, status)

    def fail(self, upstream: str, reason: str = "gone") -> None:
        """The oldest open call of an upstream gets no answer."""
        call = self.calls(upstream)[0]
        self.open.remove(call)
        self.tell(ev.Failed(call.call_id, f"{upstream}: {reason}"))

    def fail_verdict(self) -> None:
        """The open validation gets no answer."""
        call = self.validations()[0]
        self.open.remove(call)
        self.tell(ev.Failed(call.call_id, f"{EL}: gone"))

    def switch(self, mode: ExecutionMode) -> None:
        """Somebody throws the switch."""
        self.tell(ev.ModeChanged(mode))

    def pass_time(self, seconds: float) -> None:
        """Time passes; alarms that are due go off."""
        self.now += seconds
        due = [alarm for alarm in self.alarms if alarm.at <= self.now]
        self.alarms = [alarm for alarm in self.alarms if alarm.at > self.now]
        for alarm in due:
            self.tell(ev.DeadlinePassed(alarm.build_id))

    def tell(self, event: Event) -> None:
        """Any event; `Seal` is answered at once, as the shell does."""
        pending = [event]
        while pending:
            for command in self.machine.handle(pending.pop(0), self.now):
                self.log.append(command)
                if isinstance(command, Send | SendInOrder | Validate):
                    self.open.append(command)
                elif isinstance(command, ev.WakeAt):
                    self.alarms.append(command)
                elif isinstance(command, ev.Seal):
                    pending.append(ev.Sealed(command.build_id, self.sealed(command.build_id)))

    def sealed(self, build_id: BuildId) -> AssembledPayload | None:
        """What the stream answers for a build."""
        return self.assembled

    # --- commands ---

    def calls(self, upstream: str) -> list[Send | SendInOrder]:
        """Open calls of an upstream, verdicts aside."""
        return [
            call
            for call in self.open
            if (isinstance(call, Send) and call.upstream == upstream)
            or (isinstance(call, SendInOrder) and call.builder == upstream)
        ]

    def validations(self) -> list[Validate]:
        """Open validations."""
        return [call for call in self.open if isinstance(call, Validate)]

    def validating(self) -> str | None:
        """The hash of the block that is being validated."""
        found = self.validations()
        assert len(found) <= 1, "one validation at a time"
        return found[0].block.block_hash if found else None

    def new(self) -> list[Command]:
        """Commands since the last look."""
        fresh, self._read = self.log[self._read :], len(self.log)
        return fresh

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """All commands of a kind so far."""
        return [command for command in self.log if isinstance(command, kind)]

    def reply_to(self, ticket: Ticket) -> ev.Reply | None:
        """The reply to a request, if there is one; never two."""
        found = [reply for reply in self.all_of(ev.Reply) if reply.ticket == ticket]
        assert len(found) <= 1, "a request is answered once"
        return found[0] if found else None

    def body_for(self, ticket: Ticket) -> bytes:
        """The body of the reply."""
        reply = self.reply_to(ticket)
        assert reply is not None, "no reply yet"
        return reply.body

    def _close(self, call: Call, body: bytes, status: int) -> None:
        self.open.remove(call)
        self.tell(ev.Answered(CallId(call.call_id), "l2 http://el", status, body))
