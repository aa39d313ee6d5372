"""Errors that carry whose fault they are.

``ApplianceError`` is the root of all errors that we raise on purpose. A plane catches the branch that
it can answer (an upstream that is unavailable, a peer that sent nonsense) and lets the rest propagate:
those are our bugs, and the supervisor's table says what a crash of each plane means.
"""


class ApplianceError(Exception):
    """Root of the errors that this program raises on purpose; its text is one clear line."""


class ConfigError(ApplianceError):
    """The operator's mistake: configuration, a secret file, a port that is in use."""


class RemoteError(ApplianceError):
    """The other side's fault: drop that peer, count it, go on."""


class DecodeError(RemoteError):
    """Bytes that are not what the protocol says; the text names the field and what was found."""


class UnavailableError(ApplianceError):
    """An upstream did not answer (connect, timeout, broken connection): fail over or retry."""


class LogError(ApplianceError):
    """The flashblock log could not do what was asked."""


class EquivocationError(LogError):
    """A second body for a key (payload_id, index) that the log already holds."""


class OutOfOrderError(LogError):
    """An index that does not follow the last one that the log holds of its payload."""


class PrunedError(LogError):
    """A position that retention has removed, or that this log never held.

    ``oldest`` is the (block_number, index) of the oldest entry that is held, None in an empty log.
    """

    def __init__(self, message: str, oldest: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.oldest = oldest
