"""How many requests a second there may be, in all and for each key: token buckets. Pure.

A key is what the client says in a header, else its address. Who invents keys gets a fresh bucket with each, so that
the limit for each key is for clients that are known, behind a proxy that sets the header; the limit of the instance
holds whatever they say.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_KEYS: Final = 10_000
"""Buckets that are kept. The one that was used longest ago goes: most likely it is full again, which is
what a new one is."""


INSTANCE: Final = "instance"
KEY: Final = "key"


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_s`` requests a second, 0 for no limit, and ``burst`` at once."""

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Over:
    """A request is over ``limit`` (INSTANCE or KEY): it may come again in ``wait_s`` whole seconds."""

    limit: str
    wait_s: int


class Bucket:
    """Starts full."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until a request may come; 0.0 for now."""
        rate = self._rate
        self._tokens = min(self._tokens + (now - self._at) * rate.per_s, float(rate.burst))
        self._at = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / rate.per_s

    def take(self) -> None:
        """Count a request, after `wait_s` gave 0.0."""
        self._tokens -= 1.0


class RateLimit:
    """Both limits together: a request that one of them refuses takes nothing from the other."""

    def __init__(self, instance: Rate, key: Rate) -> None:
        self._instance = Bucket(instance, 0.0) if instance.per_s else None
        self._key_rate = key
        self._keys: OrderedDict[str, Bucket] = OrderedDict()

    @property
    def active(self) -> bool:
        """Whether there is any limit."""
        return self._instance is not None or self._key_rate.per_s > 0

    @property
    def keys(self) -> int:
        """Buckets that are kept now."""
        return len(self._keys)

    def over(self, key: str, now: float) -> Over | None:
        """None when the request may pass, and is counted; else the limit that it has to wait for longest."""
        bucket = self._bucket(key, now) if self._key_rate.per_s else None
        buckets = {limit: each for limit, each in ((INSTANCE, self._instance), (KEY, bucket)) if each is not None}
        wait_s, limit = max(((each.wait_s(now), limit) for limit, each in buckets.items()), default=(0.0, ""))
        if wait_s > 0:
            return Over(limit, math.ceil(wait_s))
        for each in buckets.values():
            each.take()
        return None

    def _bucket(self, key: str, now: float) -> Bucket:
        bucket = self._keys.get(key)
        if bucket is None:
            bucket = self._keys[key] = Bucket(self._key_rate, now)
            if len(self._keys) > MAX_KEYS:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(key)
        return bucket
