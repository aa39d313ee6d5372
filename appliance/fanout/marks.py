"""A place in the log, as the hub and its sessions remember it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """The last entry that was handed over: its position and its (block_number, index), if known.

    Shared by all sessions at that place, so that `is` tells whether a session still stands where the
    broadcast began.
    """

    position: int
    key: tuple[int, int] | None = None


def describe(key: tuple[int, int] | None) -> str:
    """The place as a subscriber resumes from it: `block_number=N flashblock_index=M`; empty when unknown."""
    return "" if key is None else f"block_number={key[0]} flashblock_index={key[1]}"
