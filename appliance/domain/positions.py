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
    """Entries strictly after (payload_id, index); index -1 means from the start of the payload.

    With its ``block_number`` a host finds the place also before the payload has come to it from another host.
    """

    payload_id: PayloadId
    index: int = -1
    block_number: int | None = None


@dataclass(frozen=True, slots=True)
class CurrentPayload:
    """No position given: index 0 of the payload that is being published now."""


Resume = AfterBlock | AfterPayload | CurrentPayload


@dataclass(frozen=True, slots=True)
class Located:
    """Where a subscriber starts: with the first entry after ``position`` (0 is before the first entry).

    ``skip_through`` is set where this host lags behind the place that was asked for: entries whose
    (block_number, index) is not greater are already known to this subscriber. It ends with the first entry
    that is greater: what comes after that (a smaller block number after a reorg, say) is for the subscriber.
    """

    position: int
    skip_through: tuple[int, int] | None = None
