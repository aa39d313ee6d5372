"""Heads that come again: a client that keeps its connection sends the same one each time, but for its Content-Length.

Parsing a head takes five microseconds, seeing that it is the last one again takes half of one. Pure. Only for whole
messages with a Content-Length, and for heads that ask for nothing special: whatever is not exactly so is the
parser's. A head that differs in the digits of its length alone, and by these is followed by exactly its body, is to
llhttp the same message with another length (a property test holds both against each other).
"""

from typing import Final

from appliance.net.http import Headers

_LENGTH_FIELD: Final = b"\r\ncontent-length:"
_MOST_DIGITS: Final = 19
_MOST_BYTES: Final = 2048  # of a head that is kept, as long as its connection: there may be thousands
_SPECIAL: Final = frozenset({"expect", "transfer-encoding", "upgrade"})
# Clients that number or sign their requests in the head never repeat one: looking for it is given up.
_PATIENCE: Final = 8


class RepeatedHead:
    """The last head of one connection. ``method`` and ``target`` are its own; `match` says whether it came again."""

    __slots__ = ("_before", "_behind", "_digits", "_headers", "_in_vain", "method", "target")

    def __init__(self) -> None:
        self.method = self.target = ""
        self._before = self._behind = self._digits = b""  # the head in three parts: its length is the one in the middle
        self._headers: Headers | None = None
        self._in_vain = 0

    def learn(self, data: bytes, method: str, target: str, headers: Headers) -> None:
        """``data`` was one whole message, and nothing else; the rest is what the parser made of its head."""
        self._headers = None
        if self._in_vain >= _PATIENCE or not _SPECIAL.isdisjoint(headers.as_dict()):
            return
        self._in_vain += 1
        end = data.find(b"\r\n\r\n") + 4
        if end > _MOST_BYTES:
            return
        field = data[:end].lower().find(_LENGTH_FIELD) + len(_LENGTH_FIELD)
        digits = headers.get("content-length", "").encode("latin-1")
        begin = data.find(digits, field)
        if field < len(_LENGTH_FIELD) or not digits.isdigit() or len(data) - end != int(digits):
            return
        self._before, self._digits, self._behind = data[:begin], digits, data[begin + len(digits) : end]
        self.method, self.target, self._headers = method, target, headers

    def match(self, data: bytes) -> tuple[Headers, int] | None:
        """When ``data`` is that head again and a body, and nothing else: its fields, and where the body begins."""
        headers = self._headers
        if headers is None or not data.startswith(self._before):
            return None
        begin, size = len(self._before), len(self._behind)
        end = data.find(self._behind, begin, begin + _MOST_DIGITS + size)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or len(data) - end - size != int(digits):
            return None
        self._in_vain = 0
        if digits != self._digits:
            headers = Headers.adopt(headers.as_dict() | {"content-length": digits.decode("ascii")})
        return headers, end + size

    def forget(self) -> None:
        """What follows must be seen by the parser."""
        self._headers = None
