"""Where a subscriber wants to go on reading the log."""

from dataclasses import dataclass

from appliance.domain.payloads import PayloadId


@dataclass(frozen=True, slots=True)
class AfterBlock:
    """Entries strictly after (block_number, index); index -1 means from the start of the block."""

    block_number: int
    index: int = -1


@dataclass(frozen=True, slots=True)
class AfterPayload:
    """Entries strictly after (payload_id, index); index -1 means from the start of the payload."""

    payload_id: PayloadId
    index: int = -1


@dataclass(frozen=True, slots=True)
class CurrentPayload:
    """No position given: index 0 of the payload that is being published now."""


Resume = AfterBlock | AfterPayload | CurrentPayload
