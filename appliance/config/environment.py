"""Environment variables of prio-load-balancer: they win over the keys of `[lb]` that they name.

Whoever moves from there keeps the unit file. Times are whole seconds there and milliseconds here. Without a section
`[lb]` nothing is looked at: names like LISTEN_ADDR and NODES may be another program's.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_MAX_DIGITS: Final = 9
_MAX_SECONDS: Final = 600

Convert = Callable[[str], Any]
"""Text to the key's value; ValueError with what is expected."""

Row = tuple[str, str, str]
"""(path, what was found, what is expected)"""


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise ValueError("a whole number")
    return int(text)


def _seconds(text: str) -> int:
    try:
        seconds = _whole(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"a whole number of seconds from 1 to {_MAX_SECONDS}")
    return seconds * 1000


def _switch(text: str) -> bool:
    """The original knows "1" and nothing else; here a typing error does not silently mean no."""
    if text not in ("1", "0", ""):
        raise ValueError('"1" or "0"')
    return text == "1"


def _address(text: str) -> str:
    """Go takes `:8080` for all addresses."""
    return f"0.0.0.0{text}" if text.startswith(":") else text  # noqa: S104 - what ":port" says


_VARIABLES: Final[dict[str, tuple[str, Convert]]] = {
    "LISTEN_ADDR": ("listen", _address),
    "NUM_NODE_WORKERS": ("workers", _whole),
    "RETRIES_MAX": ("tries", _whole),
    "ITEMS_FASTTRACK_PER_HIGHPRIO": ("fast_track_per_high", _whole),
    "FASTTRACK_DRAIN_FIRST": ("fast_track_drain_first", _switch),
    "ITEMS_FASTTRACK_MAX": ("max_fast_track", _whole),
    "ITEMS_HIGHPRIO_MAX": ("max_high", _whole),
    "ITEMS_LOWPRIO_MAX": ("max_low", _whole),
    "PAYLOAD_MAX_KB": ("payload_max_kb", _whole),
    "REQUEST_TIMEOUT": ("queue_timeout_ms", _seconds),
    "JOB_SEND_TIMEOUT": ("handover_timeout_ms", _seconds),
    "REQUEST_PROXY_TIMEOUT": ("proxy_timeout_ms", _seconds),
}
_NODE_VARIABLES: Final = ("NODES", "BACKENDS")


def names_by_key(environ: Mapping[str, str]) -> dict[str, str]:
    """Which variables are set, by the key of `[lb]` that each is the value of."""
    found = {key: name for name, (key, convert) in _VARIABLES.items() if _is_set(environ, name, convert)}
    nodes = [name for name in _NODE_VARIABLES if environ.get(name)]
    return found | ({"nodes": " and ".join(nodes)} if nodes else {})


def overrides(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Row]]:
    """The keys of `[lb]` that are set there, and one row for each value that is none."""
    values: dict[str, Any] = {}
    problems: list[Row] = []
    for name, (key, convert) in _VARIABLES.items():
        if not _is_set(environ, name, convert):
            continue
        try:
            values[key] = convert(environ[name].strip())
        except ValueError as error:
            problems.append((f"environment variable {name}", f'"{environ[name]}"', str(error)))
    nodes = list(_nodes(environ))
    if nodes:
        values["nodes"] = nodes
    return values, problems


def _is_set(environ: Mapping[str, str], name: str, convert: Convert) -> bool:
    """A unit's `NAME=` leaves the default, as in the original, but for its one switch: there it says no."""
    return name in environ and (bool(environ[name].strip()) or convert is _switch)


def _nodes(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for name in _NODE_VARIABLES:
        for text in environ.get(name, "").split(","):
            if text.strip():
                yield {"url": text.strip()}
