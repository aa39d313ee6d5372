"""The appliance as a real process, as systemd would run it, for scenario tests and benches."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

READY_TIMEOUT_S = 60.0


class ApplianceProcess:
    """`appliance run` with JSON log lines; ``addresses`` has what it listens on, by plane."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.addresses: dict[str, str] = {}
        self._more = trio.Condition()
        self._ended = False

    def events(self, message: str) -> list[dict[str, Any]]:
        """The log lines so far with this message."""
        return [line for line in self.lines if line.get("message") == message]

    async def wait_for_event(self, message: str, count: int = 1, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until ``count`` lines with this message have come; the last of them."""
        with trio.move_on_after(timeout_s):
            async with self._more:
                while len(self.events(message)) < count and not self._ended:
                    await self._more.wait()
        found = self.events(message)
        if len(found) < count:
            shown = "\n".join(self.text[-30:])
            raise AssertionError(f"{len(found)} of {count} lines {message!r}; the last lines were:\n{shown}")
        return found[count - 1]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def read_log(self) -> None:
        """Collect the log lines until the process ends."""
        stream = self.process.stderr
        assert stream is not None
        buffered = b""
        async for chunk in stream:
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                self._take(line.decode())
            async with self._more:
                self._more.notify_all()
        self._ended = True
        async with self._more:
            self._more.notify_all()

    def _take(self, line: str) -> None:
        self.text.append(line)
        try:
            decoded = json.loads(line)
        except ValueError:
            return
        if isinstance(decoded, dict):
            self.lines.append(decoded)


@asynccontextmanager
async def killed_at_the_end(process: trio.Process) -> AsyncIterator[None]:
    """Whatever becomes of the block, the process does not outlive it."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def running(
    write_config: Callable[[], Path], env: Mapping[str, str] | None = None
) -> AsyncIterator[ApplianceProcess]:
    """Start `appliance run --config FILE` and wait until it is ready; killed at the end if it still runs."""
    command = [sys.executable, "-m", "appliance", "run", "--config", str(write_config())]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=env)
        appliance = ApplianceProcess(process)
        nursery.start_soon(appliance.read_log)
        async with killed_at_the_end(process):
            ready = await appliance.wait_for_event("ready")
            appliance.addresses = ready["listening"]
            yield appliance
