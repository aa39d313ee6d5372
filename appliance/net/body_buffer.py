"""A body of known length that the socket writes into, so that megabytes are not copied piece by piece."""

from collections.abc import Iterable
from io import BytesIO


class BodyBuffer:
    """Room for ``size`` bytes, filled from the front; ``parts`` of it have come already.

    The room is a `BytesIO`, whose memory the socket fills and which then gives its bytes away without another copy.
    """

    def __init__(self, size: int, parts: Iterable[bytes | bytearray] = ()) -> None:
        self._store = BytesIO(bytes(size))
        self._view = self._store.getbuffer()
        self._filled = 0
        for part in parts:
            self._view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)

    @property
    def room(self) -> memoryview:
        """Where the next bytes go; empty when all have come."""
        return self._view[self._filled :]

    def advance(self, count: int) -> None:
        """So many bytes were written into `room`."""
        self._filled += count

    def so_far(self) -> memoryview:
        """What has come."""
        return self._view[: self._filled]

    def take(self) -> bytes:
        """The whole body; the buffer is done."""
        self._view.release()
        return self._store.getvalue()
