"""Answers that wait for their clients to read them: how many bytes of them the load balancer holds in all.

A node answers once and is free; its answer stays until the client has taken it. Without a bound a few thousand
clients that ask for much and read nothing would hold as many answers of the greatest size.
"""

from appliance.net.body_budget import UNCOUNTED_BYTES, BodyBudget
from appliance.net.http import Headers, HttpResponse


class HeldAnswers:
    """At most ``limit_bytes``, of which the first 64 KiB of each answer are not counted: the kernel takes as much.

    While it is full no further request goes to a node; an answer that came meanwhile and does not fit is given up.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._budget = BodyBudget(limit_bytes)

    def __repr__(self) -> str:
        return f"<HeldAnswers {self.taken} of {self._limit_bytes} bytes>"

    @property
    def taken(self) -> int:
        """What is held now."""
        return self._budget.taken

    @property
    def full(self) -> bool:
        """Whether there is no room for anything: requests are better refused than asked of a node."""
        return self._budget.taken >= self._limit_bytes

    def has_room(self, body_bytes: int) -> bool:
        """Whether an answer of that size fits now: ask before `response`."""
        return self._budget.has_room(body_bytes)

    def response(self, status: int, body: bytes, headers: Headers) -> HttpResponse:
        """The answer as a response that holds its bytes until it was sent. ValueError when it does not fit."""
        if len(body) <= UNCOUNTED_BYTES:
            return HttpResponse(status, body, headers)
        if not self._budget.grow(0, len(body)):
            raise ValueError(f"no room for an answer of {len(body)} bytes")
        return _Held(self._budget, status, body, headers)


class _Held(HttpResponse):
    """Gives its bytes back once."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: BodyBudget, status: int, body: bytes, headers: Headers) -> None:
        super().__init__(status, body, headers)
        self._budget = budget
        self._size = len(body)

    def sent(self) -> None:
        """See `HttpResponse`."""
        self._budget.give_back(self._size)
        self._size = 0
