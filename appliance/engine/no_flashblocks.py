"""The stream of an engine without flashblocks: it publishes nothing, so there is nothing to keep a promise about."""

from appliance.domain.assembled import AssembledPayload
from appliance.domain.health import HealthFact
from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.ports import Build


class NoFlashblocks:
    """A `FlashblockStream` that is always empty."""

    def build_started(self, build: Build) -> None:
        """Nothing follows."""

    def build_confirmed(self, build_id: BuildId) -> None:
        """Nothing follows."""

    def build_abandoned(self, build_id: BuildId) -> None:
        """Nothing follows."""

    def builder_joined(self, build_id: BuildId, builder: str, payload_id: PayloadId) -> None:
        """Nothing follows."""

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        """Nothing was published."""
        return None

    def payload_returned(self, build_id: BuildId, block_hash: str, *, holds_all: bool = False) -> None:
        """Nothing follows."""

    def head_changed(self, block_hash: str, block_number: int | None) -> None:
        """Nothing follows."""

    def health(self) -> HealthFact | None:
        """Nothing that could be ill."""
        return None
