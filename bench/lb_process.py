"""`appliance run` with nothing but `[lb]`, as a process."""

import pathlib
import socket
import subprocess
import sys
import time
from typing import Self

from bench.children import ChildError
from tests.support.ports import lasting_port

START_TIMEOUT_S = 60.0


class LoadBalancerProcess:
    """In front of nodes on these ports of 127.0.0.1; request lines are logged as by default, to a file."""

    def __init__(self, folder: pathlib.Path, ports: list[int], *, workers: int, reserve: int = 0) -> None:
        self.port = lasting_port()
        self._folder = folder
        nodes = "".join(f'\n[[lb.nodes]]\nurl = "http://127.0.0.1:{port}"\n' for port in ports)
        (folder / "appliance.toml").write_text(
            f'[store]\nfolder = "{folder}"\n\n[log]\nformat = "json"\n\n[lb]\nlisten = "127.0.0.1:{self.port}"\n'
            f"workers = {workers}\nfast_track_reserve = {reserve}\nhandover_timeout_ms = 60000\n{nodes}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "appliance", "run", "--config", str(self._folder / "appliance.toml")]
        with (self._folder / "output.log").open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise ChildError(f"the appliance did not start: {(self._folder / 'output.log').read_text()[-500:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True
