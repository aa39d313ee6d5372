"""The paths of the stream, as websocket-proxy has them (REFERENCE, section 4). Pure."""

from dataclasses import dataclass, field
from urllib.parse import unquote

_FILTER = "filter"


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the stream; ``key`` is the API key in it."""

    key: str | None = field(default=None, repr=False)


def route(path: str) -> Route | None:
    """What a path means; None for one that does not exist.

    `/`, `/ws` and `/ws/filter` have no key, `/ws/{api_key}` and `/ws/{api_key}/filter` do. With or without
    `/filter` the query decides whether there is a filter: what somebody asks for is never passed over silently.
    """
    match path.split("/"):
        case ["", ""] | ["", "ws"] | ["", "ws", ""] | ["", "ws", "filter"]:
            return Route()
        case ["", "ws", key] | ["", "ws", key, "filter"] if key and key != _FILTER:
            return Route(unquote(key))
    return None
