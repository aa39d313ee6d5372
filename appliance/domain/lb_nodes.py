"""A node of the load balancer that somebody added while the process ran."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AddedNode:
    """``url`` may hold credentials. ``workers`` None is the default; ``at`` is in seconds since 1970."""

    url: str
    workers: int | None
    at: float
    who: str
