"""What differs between two configurations, key by key. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec

from appliance.config.model import Config, FanoutConfig, LbConfig

RELOADABLE: Final = frozenset({"max_subscribers", "max_per_ip", "public_access", "api_keys"})
"""Of [fanout]: keys and limits. Of [lb] it is the nodes. Everything else holds sockets, threads or upstreams."""


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
    return msgspec.structs.replace(old, fanout=_fanout(old.fanout, new.fanout), lb=_lb(old.lb, new.lb))


def _fanout(old: FanoutConfig | None, new: FanoutConfig | None) -> FanoutConfig | None:
    if old is None or new is None:
        return old
    return msgspec.structs.replace(old, **{name: getattr(new, name) for name in sorted(RELOADABLE)})


def _lb(old: LbConfig | None, new: LbConfig | None) -> LbConfig | None:
    return old if old is None or new is None else msgspec.structs.replace(old, nodes=new.nodes)
