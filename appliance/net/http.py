"""HTTP messages as the server, the client and every handler see them: plain values, no I/O."""

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, overload
from urllib.parse import parse_qsl

import msgspec

if TYPE_CHECKING:
    from appliance.net.early_answer import EarlyAnswer

_T = TypeVar("_T")

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]
"""What callers may write for headers; names in any case."""


class Headers(Mapping[str, str]):
    """Header values by lower-case name, read-only.

    A name that came several times holds the values joined by ", " (RFC 9110, 5.3), so the last entry of
    `X-Forwarded-For` is the text behind the last comma. Lookups take lower-case names only: they are on
    the path of every request.
    """

    __slots__ = ("_lines", "_values")

    def __init__(self, items: HeaderItems = ()) -> None:
        self._lines: bytes | None = None
        self._values: dict[str, str] = {}
        if not items:
            return  # as for each message
        for name, value in items.items() if isinstance(items, Mapping) else items:
            lower = name.lower()
            before = self._values.get(lower)
            self._values[lower] = value if before is None else f"{before}, {value}"

    @classmethod
    def adopt(cls, values: dict[str, str]) -> "Headers":
        """Take over a dict whose names are lower-case already; the caller gives it up."""
        headers = cls()
        headers._values = values
        return headers

    @classmethod
    def encoded(cls, lines: bytes) -> "Headers":
        """Lines that are to be sent as they are, each with its CRLF; nobody looks them up."""
        headers = cls()
        headers._lines = lines
        return headers

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str | _T) -> str | _T: ...

    def get(self, name: str, default: object = None) -> object:
        """The dict's own: the mixin's one raises and catches for each name that is not there."""
        return self._values.get(name, default)

    def as_dict(self) -> dict[str, str]:
        """The dict itself, for who looks several names up; not to be changed."""
        return self._values

    def lines(self, encode: Callable[["Headers"], bytes]) -> bytes:
        """What ``encode`` makes of these headers, made once: a constant's or an upstream's serve many messages."""
        if self._lines is None:
            self._lines = encode(self)
        return self._lines

    def items(self) -> ItemsView[str, str]:
        """The dict's own view: the mixin's one looks every name up again."""
        return self._values.items()

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


class HttpRequest(msgspec.Struct, frozen=True, dict=True):
    """One whole request.

    ``target`` is the request target as it came (origin form or absolute form). ``peer`` is the IP address
    of the other end, without port; an IPv4 address that came over an IPv6 socket is in dotted form.
    ``early`` lets a handler begin its answer before all of it is there; None where no server is behind it.
    ``admitted`` says that the server's `OnHead` has seen this head and let it pass.
    ``keep_alive`` says whether the client will go on with this connection. ``upgrade`` says that it asks
    for a websocket, so that the handler may answer with `Upgrade`.
    """

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    peer: str = ""
    keep_alive: bool = True
    upgrade: bool = False
    admitted: bool = False
    early: "EarlyAnswer | None" = None

    @property
    def path(self) -> str:
        """The path of the target, percent-encoding untouched, never empty for origin and absolute form."""
        return _origin_form(self.target).partition("?")[0]

    @property
    def raw_query(self) -> str:
        """What follows the first "?", undecoded; empty when there is none."""
        return _origin_form(self.target).partition("?")[2]

    @cached_property
    def query(self) -> dict[str, str]:
        """Decoded query parameters; of a name given twice the last one wins; blank values are kept."""
        return dict(parse_qsl(self.raw_query, keep_blank_values=True))


def _origin_form(target: str) -> str:
    """`http://host/path` as proxies send it (RFC 9112, 3.2.2) is `/path` to us."""
    if target.startswith("/") or "://" not in target:
        return target
    rest = target.partition("://")[2]
    begin = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    path = rest[begin:]
    return path if path.startswith("/") else "/" + path


class HttpResponse:
    """One whole response. ``headers`` may be given in any form and are `Headers` afterwards.

    `content-length`, `connection` and the other headers that belong to one connection are the server's to
    write; when a handler passes on those of an upstream they are left out.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: HeaderItems = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)

    def sent(self) -> None:
        """Called by the server when the client has it, or never will: for those that hold something until then."""

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status}, {len(self.body)} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HttpResponse):
            return NotImplemented
        mine, theirs = (self.status, self.body), (other.status, other.body)
        return mine == theirs and self.headers == other.headers

    __hash__ = None  # type: ignore[assignment]  # equal by value, and its headers are a mapping
