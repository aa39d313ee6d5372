"""Health as op-conductor and load balancers read it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

STREAM: Final = "stream"
"""The name of the fact about flashblocks; the others are named after upstreams and planes."""


class Health(IntEnum):
    """The HTTP status that `/healthz` answers (rollup-boost's codes)."""

    OK = 200
    PARTIAL = 206  # the local EL produces blocks, the builders do not
    UNAVAILABLE = 503  # the local EL does not


@dataclass(frozen=True, slots=True)
class HealthFact:
    """One thing that is well or not, and why."""

    name: str
    healthy: bool
    reason: str
