"""Drives a sequence machine in tests: event in, commands out."""

from typing import TypeVar

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus
from appliance.flashblocks.commands import (
    Append,
    Command,
    Dropped,
    Paused,
    Reason,
    Sealed,
    SetState,
    Validate,
)
from appliance.flashblocks.sequence import FlashblockSequence
from tests.flashblocks.making import PARENT, TIMESTAMP, StartedBuild, make_flashblock, payload_id

P = payload_id(1)
C = TypeVar("C", bound=Command)


class Playbook:
    """A machine, everything that it has asked for, and a log that answers when it is told to."""

    def __init__(self, *, execution: bool = False) -> None:
        self.sequence = FlashblockSequence(execution=execution)
        self.commands: list[Command] = []
        self.now = 1000.0

    # What has come out.

    def all_of(self, kind: type[C]) -> list[C]:
        """Every command of one kind so far."""
        self.commands += self.sequence.take_commands()
        return [command for command in self.commands if isinstance(command, kind)]

    @property
    def handed(self) -> list[Flashblock]:
        """What was handed to the log so far."""
        return [command.flashblock for command in self.all_of(Append)]

    @property
    def shown(self) -> list[tuple[str, int]]:
        """(builder, index) of what was handed to the log so far."""
        return [(command.builder, command.flashblock.index) for command in self.all_of(Append)]

    @property
    def states(self) -> list[tuple[PayloadId, PayloadState]]:
        """What was recorded of payloads so far."""
        return [(command.payload_id, command.state) for command in self.all_of(SetState)]

    @property
    def dropped(self) -> list[tuple[Reason, str, int]]:
        """(reason, builder, index) of all drops so far."""
        return [(note.reason, note.builder, note.index) for note in self.all_of(Dropped)]

    @property
    def paused(self) -> list[tuple[Reason, str]]:
        """(reason, builder) of all streams that stopped."""
        return [(note.reason, note.builder) for note in self.all_of(Paused)]

    @property
    def sealed(self) -> list[tuple[int, int]]:
        """(published, missing) of all fences."""
        return [(note.published, note.missing) for note in self.all_of(Sealed)]

    @property
    def to_validate(self) -> list[Validate]:
        """Everything that the EL was asked about."""
        return self.all_of(Validate)

    # What goes in.

    def start(self, build: int, *, parent_hash: str = PARENT, timestamp: int = TIMESTAMP) -> None:
        """build_started."""
        self.sequence.build_started(StartedBuild(BuildId(build), parent_hash, timestamp), self.now)

    def confirm(self, build: int) -> None:
        """build_confirmed."""
        self.sequence.build_confirmed(BuildId(build))

    def abandon(self, build: int) -> None:
        """build_abandoned."""
        self.sequence.build_abandoned(BuildId(build))

    def join(self, build: int, builder: str = "alpha", payload: PayloadId = P) -> None:
        """builder_joined."""
        self.sequence.builder_joined(BuildId(build), builder, payload)

    def begin(self, build: int = 1, *builders: str, payload: PayloadId = P) -> None:
        """A build that is confirmed and that these builders (or alpha) have joined under one payload id."""
        self.start(build)
        self.confirm(build)
        for builder in builders or ("alpha",):
            self.join(build, builder, payload)

    def send(self, index: int, builder: str = "alpha", payload: PayloadId = P, content: str = "") -> Flashblock:
        """A flashblock comes in; its content depends on the builder."""
        flashblock = make_flashblock(payload, index, content or builder)
        self.sequence.flashblock(builder, flashblock, self.now)
        return flashblock

    def appended(self) -> None:
        """The log has it on disk."""
        self.sequence.appended()

    def send_and_log(self, count: int, builder: str = "alpha", payload: PayloadId = P) -> None:
        """Flashblocks 0..count-1 come in and are logged one after the other."""
        for index in range(count):
            self.send(index, builder, payload)
            self.appended()

    def verdict(self, status: PayloadStatus | None = PayloadStatus.VALID) -> None:
        """The EL answers the last question."""
        self.sequence.validated(self.to_validate[-1].validation_id, status)

    def seal(self, build: int = 1) -> AssembledPayload | None:
        """seal."""
        return self.sequence.seal(BuildId(build))

    def returned(self, block_hash: str, build: int = 1) -> None:
        """payload_returned."""
        self.sequence.payload_returned(BuildId(build), block_hash)
