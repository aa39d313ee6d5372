"""Payloads: what the Engine API builds, names and judges."""

from enum import StrEnum
from typing import NewType

PayloadId = NewType("PayloadId", str)
"""8 bytes as lower-case 0x-prefixed hex. Each upstream gives its own; they may or may not be equal."""

BuildId = NewType("BuildId", int)
"""Our own number for one block being built: one FCU with attributes, over all upstreams."""


class PayloadStatus(StrEnum):
    """`PayloadStatusV1.status` of the Engine API. Only VALID ever lets a block through."""

    VALID = "VALID"
    INVALID = "INVALID"
    SYNCING = "SYNCING"
    ACCEPTED = "ACCEPTED"
    INVALID_BLOCK_HASH = "INVALID_BLOCK_HASH"


class PayloadState(StrEnum):
    """The life of a payload in the flashblock log.

    building -> sealed (getPayload was answered: the fence) -> landed (its hash became head) or dropped
    (another block did, or the block that was answered was not this stream's).
    """

    BUILDING = "building"
    SEALED = "sealed"
    LANDED = "landed"
    DROPPED = "dropped"


class PayloadSource(StrEnum):
    """Who built the block that getPayload answered: `context` in the log line "returning block"."""

    L2 = "l2"
    BUILDER = "builder"
