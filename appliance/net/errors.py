"""What can go wrong with the other end of a connection, told apart by what a caller may do about it.

All are `UnavailableError`: fail over or try again. No error of a library leaves `net/` untranslated.
"""

from appliance.domain.errors import RemoteError, UnavailableError


class ConnectFailed(UnavailableError):
    """No connection came about: name, address, refusal, TLS, or the connect deadline."""


class WebsocketRefused(ConnectFailed):
    """The other side answered the websocket handshake with an HTTP ``status`` instead, and ``text`` as its reason.

    With a status below 500 the same request will be refused again.
    """

    def __init__(self, origin: str, status: int, text: str) -> None:
        super().__init__(f"{origin} refused the websocket with HTTP {status}" + (f": {text}" if text else ""))
        self.status = status
        self.text = text


class TimedOut(UnavailableError):
    """The deadline of the request passed. The other side may or may not have acted on it."""


class ConnectionBroken(UnavailableError):
    """The connection ended before the answer was whole.

    ``nothing_read`` says that not one byte of the answer had come: then a kept-alive connection was
    probably closed by the other side while it was idle.
    """

    def __init__(self, text: str, *, nothing_read: bool = False) -> None:
        super().__init__(text)
        self.nothing_read = nothing_read


class BadResponse(RemoteError, UnavailableError):
    """The answer breaks the protocol or a limit. Also a `RemoteError`: it is the other side's fault."""


class AnswerTooLarge(BadResponse):
    """The answer is larger than its receiver takes; asking again would not make it smaller."""
