"""What hosts vote on: a flashblock on a branch of its payload."""

from dataclasses import dataclass

from appliance.domain.payloads import PayloadId

Key = tuple[PayloadId, int]
"""(payload id, index): what two branches have in common."""


@dataclass(frozen=True, slots=True)
class Place:
    """One flashblock on one branch: ``prefix`` is the digest of its body and of all before it in the payload."""

    payload_id: PayloadId
    index: int
    prefix: bytes

    @property
    def key(self) -> Key:
        """Where it is, whatever the branch."""
        return self.payload_id, self.index
