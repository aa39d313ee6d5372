"""The lines that a process prints, waited for one after the other."""

import trio
from trio.abc import ReceiveStream


class LineReader:
    """Keeps all that came. Whoever waits for a line gets the first one after what was waited for before."""

    def __init__(self, stream: ReceiveStream) -> None:
        self._stream = stream
        self._buffered = b""
        self._passed = 0
        self.lines: list[str] = []

    async def wait_for(self, text: str) -> str:
        """The next line that has ``text`` in it; AssertionError with the last lines when there are no more."""
        while True:
            while self._passed < len(self.lines):
                self._passed += 1
                if text in self.lines[self._passed - 1]:
                    return self.lines[self._passed - 1]
            await self._read_more(text)

    async def wait_count(self, count: int) -> list[str]:
        """All lines, once there are so many."""
        while len(self.lines) < count:
            await self._read_more(f"{count} lines")
        return self.lines

    async def _read_more(self, wanted: str) -> None:
        chunk = await self._stream.receive_some()
        if not chunk:
            raise AssertionError(f"no {wanted!r} in:\n" + "\n".join(self.lines[-30:]))
        *lines, self._buffered = (self._buffered + chunk).split(b"\n")
        self.lines += [line.decode() for line in lines]
        await trio.lowlevel.checkpoint()
