"""Processes beside the measured one, steered by JSON lines: a request on stdin, one answer on stdout.

A child ends when its stdin does, so nothing is left behind however the bench ends.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from typing import Any, Self


class ChildError(Exception):
    """A child ended, or did not answer in time."""


class Child:
    """`python -m MODULE arguments...`, which says ``ready`` (its first line) when it can be asked."""

    def __init__(self, module: str, *arguments: str, start_timeout_s: float = 60.0) -> None:
        self.name = " ".join((module, *arguments))
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._unread = b""
        try:
            self.ready = self.answer(start_timeout_s)
        except ChildError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, do: str, **fields: Any) -> None:
        """Ask without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self._process.stdin.flush()

    def has_answered(self) -> bool:
        """Whether `answer` would return at once; ChildError when the process ended."""
        assert self._process.stdout is not None
        while b"\n" not in self._unread and select.select([self._process.stdout], [], [], 0.0)[0]:
            self._receive()
        return b"\n" in self._unread

    def answer(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """The next line; ChildError when it does not come."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                raise ChildError(f"{self.name} did not answer within {timeout_s:.0f} s")
            self._receive()
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _receive(self) -> None:
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            raise ChildError(f"{self.name} ended with exit code {self._process.wait()}")
        self._unread += data

    def ask(self, do: str, timeout_s: float = 60.0, **fields: Any) -> dict[str, Any]:
        self.send(do, **fields)
        return self.answer(timeout_s)

    def close(self) -> None:
        """End it: by the end of its stdin, and hard when it takes more than five seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def say(**fields: Any) -> None:
    """A child's answer."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
