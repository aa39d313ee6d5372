"""Child processes with their output in a file: start, wait for readiness, kill -9, stop."""

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self


def stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped (proc(5): state T)."""
    try:
        stats = [file.read_text() for file in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one of them has just ended
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


class ChildProcess:
    """One program in its own session, so that a signal reaches it and its children and nobody else."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        output: pathlib.Path,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> None:
        self.name = name
        self.output = output
        self._command = list(command)
        self._env = None if env is None else {**os.environ, **env}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None, f"{self.name} runs already"
        with self.output.open("ab") as file:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def pause(self) -> None:
        """SIGSTOP, and all of its threads stand still: until one of them has taken the signal the others go on."""
        os.killpg(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 60.0
        while not stands_still(self.pid):
            assert time.monotonic() < deadline, f"{self.name} does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: no goodbye, as when the machine takes it."""
        self._end(signal.SIGKILL, timeout_s=60.0)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and SIGKILL when the deadline has passed; the exit code."""
        return self._end(signal.SIGTERM, timeout_s)

    def _end(self, number: signal.Signals, timeout_s: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            os.killpg(process.pid, number)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def text(self) -> str:
        """All that it has printed so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Ask ``ready`` until it says yes; AssertionError with the output's end when that cannot be."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert self.running, f"{self.name} ended:\n{self.text()[-2000:]}"
            assert time.monotonic() < deadline, f"{self.name} is not ready:\n{self.text()[-2000:]}"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
