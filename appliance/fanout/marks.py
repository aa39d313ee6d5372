"""A place in the log, as the hub and its sessions remember it."""

from dataclasses import dataclass

from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId


@dataclass(frozen=True, slots=True)
class Mark:
    """The last entry that was handed over: its position, its (block_number, index) and its payload, if known.

    Shared by all sessions at that place, so that `is` tells whether a session still stands where the
    broadcast began.
    """

    position: int
    key: tuple[int, int] | None = None
    payload_id: PayloadId | None = None

    @classmethod
    def of(cls, entry: Entry) -> "Mark":
        """The mark of one entry."""
        return cls(entry.position, entry.key, entry.payload_id)


def describe(key: tuple[int, int] | None, payload_id: PayloadId | None = None) -> str:
    """The place as a subscriber resumes from it: `payload_id=0x… block_number=N flashblock_index=M`.

    A block may be built twice: the payload id with the index names one entry, the block number with the index
    may name two. The payload is left out and all is empty when unknown. At most 91 bytes, so it fits a close
    frame's 123 beside a word of why.
    """
    if key is None:
        return ""
    payload = "" if payload_id is None else f"payload_id={payload_id} "
    return f"{payload}block_number={key[0]} flashblock_index={key[1]}"
