"""What the engine needs of its neighbours, in its own terms; the supervisor passes the objects.

All calls are synchronous, made on the event loop in the order in which things happened, and must return
at once: the engine never waits for the flashblock stream, its log or its subscribers.
"""

from dataclasses import dataclass
from typing import Protocol

from appliance.domain.assembled import AssembledPayload
from appliance.domain.health import HealthFact
from appliance.domain.payloads import BuildId, PayloadId


@dataclass(frozen=True, slots=True)
class Build:
    """One block being built: one forkchoice_updated with payload attributes, over all upstreams.

    ``timestamp`` is the attributes' (seconds of the block, not of the clock). ``builders`` names those
    that were asked, in configured order; empty when only the EL builds (`noTxPool`).
    """

    build_id: BuildId
    parent_hash: str
    timestamp: int
    builders: tuple[str, ...]


class FlashblockStream(Protocol):
    """The flashblocks of the builds that the engine starts (appliance.flashblocks implements it)."""

    def build_started(self, build: Build) -> None:
        """A forkchoice_updated with attributes goes out. It replaces every build before it."""

    def build_confirmed(self, build_id: BuildId) -> None:
        """The EL answered VALID with a payload id: the build's stream may be published."""

    def build_abandoned(self, build_id: BuildId) -> None:
        """The EL refused the build, or a newer one replaced it before getPayload came."""

    def builder_joined(self, build_id: BuildId, builder: str, payload_id: PayloadId) -> None:
        """``builder`` answered with its own payload id: before or after `build_confirmed`, or late."""

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        """getPayload came: fence the stream and answer what was published so far, assembled.

        Idempotent: the second call answers what the first did. None when nothing was published, or when
        what was published cannot be assembled. For a build that it does not know, None.
        """

    def payload_returned(self, build_id: BuildId, block_hash: str, *, holds_all: bool = False) -> None:
        """getPayload was answered with the block of this hash (landed or dropped is judged by it later).

        ``holds_all`` when it is known to hold all that was published although no flashblock has its hash: the
        EL has filled in the state root.
        """

    def head_changed(self, block_hash: str, block_number: int | None) -> None:
        """The EL took ``block_hash`` as its head; the number is None where the engine never saw the block."""

    def health(self) -> HealthFact | None:
        """Whether subscribers are shown flashblocks of the blocks that are built here; None where there are none."""
