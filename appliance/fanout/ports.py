"""What fan-out needs of the flashblock log and of a socket, in its own terms."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import Located, Resume


class LogView(Protocol):
    """The read side of the flashblock log. Entries come in log order; positions grow but may have holes."""

    @property
    def head(self) -> int:
        """The position of the last committed entry; 0 when the log is empty."""
        ...

    async def wait_past(self, position: int) -> None:
        """Return when `head` is greater than ``position``."""
        ...

    def recent(self, after: int, limit: int) -> Sequence[Entry] | None:
        """Up to ``limit`` entries after a position from memory; None when memory does not reach back to it."""
        ...

    async def read(self, after: int, *, limit: int, max_bytes: int) -> Sequence[Entry]:
        """The same from disk. Raises PrunedError when entries right after ``after`` have been removed."""
        ...

    async def locate(self, resume: Resume) -> Located:
        """Translate what a subscriber asked for. Raises PrunedError when that would leave a gap.

        With ``skip_through`` set this host is behind what the subscriber has seen elsewhere: entries are
        passed over until the first one whose (block_number, index) is greater.
        """
        ...


class PayloadFacts(Protocol):
    """What the log knows of a payload."""

    @property
    def block_number(self) -> int: ...


class StateSource(Protocol):
    """Where changes of payloads' states are heard of; the flashblock log is one."""

    @property
    def appended(self) -> int:
        """The last position in the log, shown or not."""
        ...

    def watch_states(
        self, on_state: Callable[[PayloadId, PayloadState, str | None], None], /
    ) -> AbstractContextManager[None]:
        """Call ``on_state`` with payload id, state and block hash after each change, while the block runs."""
        ...

    async def payload(self, payload_id: PayloadId, /) -> PayloadFacts | None:
        """A payload that is held. Raises LogError."""
        ...


class Wire(Protocol):
    """A non-blocking stream socket; `socket.socket` is one."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Hand bytes to the kernel and return how many it took. Raises BlockingIOError for none, or OSError."""
        ...

    def sendmsg(self, buffers: Sequence[bytes], /) -> int:
        """The same for several buffers in a row."""
        ...

    def fileno(self) -> int: ...
