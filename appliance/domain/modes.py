"""The emergency switch: how far builders are used."""

from dataclasses import dataclass
from enum import StrEnum


class ExecutionMode(StrEnum):
    """rollup-boost's execution modes, by its names on the wire.

    enabled: a builder's block may be returned. dry_run: builders build and are judged, the execution
    client's own block is returned. disabled: builders get nothing.
    """

    ENABLED = "enabled"
    DRY_RUN = "dry_run"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class ModeChange:
    """One throw of the switch. ``at`` in seconds since 1970; ``who`` names the way and the peer's address."""

    mode: ExecutionMode
    before: ExecutionMode
    at: float
    who: str
