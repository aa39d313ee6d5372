"""Where the parts of a large getPayload answer are, without reading its transactions more than once.

Of 3 MB nearly all is the list of transactions, and each pass of a JSON decoder over it takes 1.2 ms. So that list is
cut out by searching, read on its own, and the rest, two KB, is read as if the list was empty.

    body          …,"transactions":["0x…","0x…"],…
    skeleton      …,"transactions":[],…

That is sound because of what is required, else `find` answers None and the ordinary decoder has its say:

- no backslash anywhere, so a quote begins or ends a string wherever it stands;
- `"transactions"` stands once, and a "[" behind it: so it is a key, or the skeleton is no JSON;
- what is cut out is a JSON array by itself; replacing an array by another changes nothing around it.
"""

from dataclasses import dataclass
from typing import Final, Self

import msgspec

from appliance.wire.jsonrpc import MALFORMED

LARGE_BYTES: Final = 64 * 1024
"""Below this the ordinary decoder takes less than it takes to think about it."""

_KEY: Final = b'"transactions"'
_OPENING: Final = b'"transactions":['  # as every known client writes it

_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A body without its transactions, and how to find a part of the one in the other."""

    body: bytes
    text: bytes
    transactions: tuple[msgspec.Raw, ...]
    _key_at: int
    _cut_bytes: int  # how much longer a part with the list in it is in the body

    @classmethod
    def find(cls, body: bytes) -> Self | None:
        """None where the body is small or not of this plain kind."""
        if len(body) < LARGE_BYTES or b"\\" in body:
            return None
        key_at = body.find(_OPENING)
        begin = key_at + len(_OPENING) - 1
        end = body.find(b"]", begin) + 1
        if key_at < 0 or not end or body.find(_KEY, 0, key_at) >= 0 or body.find(_KEY, end) >= 0:
            return None
        try:
            transactions = tuple(_list_decoder.decode(memoryview(body)[begin:end]))
        except MALFORMED:
            return None
        text = b"".join((body[:begin], b"[]", body[end:]))
        return cls(body, text, transactions, key_at, end - begin - 2)

    def whole(self, part: msgspec.Raw) -> msgspec.Raw | None:
        """The part of the body that ``part`` of the skeleton stands for; None for one that has not the list in it."""
        inner = bytes(part).find(_OPENING)
        if inner < 0:
            return None
        begin = self._key_at - inner
        return msgspec.Raw(memoryview(self.body)[begin : begin + len(bytes(part)) + self._cut_bytes])
