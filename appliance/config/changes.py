"""What differs between two configurations, key by key. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec

from appliance.config.model import Config, FanoutConfig

RELOADABLE: Final = frozenset({"max_subscribers", "max_per_ip", "public_access", "api_keys"})
"""Of [fanout]: keys and limits. Everything else holds sockets, threads or upstreams that stand on it."""


def changed_keys(old: Config, new: Config) -> list[str]:
    """The paths of the keys that differ, as `fanout.max_per_ip`; a section that came or went is one, a list too."""
    return list(_changes(old, new, ""))


def _changes(old: msgspec.Struct, new: msgspec.Struct, prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        path = f"{prefix}{field.encode_name}"
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from _changes(before, after, f"{path}.")
        elif before != after:
            yield path


def take_over(old: Config, new: Config) -> Config:
    """The old one with what can be reloaded from the new one."""
    if old.fanout is None or new.fanout is None:
        return old
    fanout: FanoutConfig = msgspec.structs.replace(
        old.fanout, **{name: getattr(new.fanout, name) for name in sorted(RELOADABLE)}
    )
    return msgspec.structs.replace(old, fanout=fanout)
