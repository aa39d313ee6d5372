"""The appliance as an operator starts it, `appliance run`, between the fake upstreams."""

import contextlib
import http.client
import pathlib
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Self

from bench.children import ChildError
from tests.support.ports import lasting_port

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
DEADLINE_MS = 10_000
"""For builders that all answer at once: a machine that stands still for a second makes no block the EL's."""


class ApplianceProcess:
    """One process with engine, flashblocks, log and fan-out on one event loop.

    Builders stand in the order of their ports; the first one's flashblocks are listened to.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        el_port: int,
        builder_ports: Sequence[int],
        *,
        subscribers: int = 1,
        builder_deadline_ms: int = DEADLINE_MS,
    ) -> None:
        self.engine_port, self.fanout_port = lasting_port(), lasting_port()
        self.secret = secrets.token_bytes(32)
        secret_file = folder / "jwt.hex"
        secret_file.write_text(self.secret.hex())
        config = folder / "appliance.toml"
        text = self._config(folder, secret_file, el_port, subscribers, builder_deadline_ms)
        config.write_text(text + _builders(builder_ports, secret_file))
        self._output = folder / "output.log"
        with self._output.open("wb") as file:
            command = [sys.executable, "-m", "appliance", "run", "--config", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            self._wait_ready()
        except ChildError:
            self.close()
            raise

    def _config(
        self, folder: pathlib.Path, secret: pathlib.Path, el_port: int, subscribers: int, builder_deadline_ms: int
    ) -> str:
        return f"""
[store]
folder = "{folder / "data"}"

[engine]
listen = "127.0.0.1:{self.engine_port}"
debug_listen = "127.0.0.1:0"
jwt_secret_file = "{secret}"
builder_deadline_ms = {builder_deadline_ms}

[engine.l2]
url = "http://127.0.0.1:{el_port}"
jwt_secret_file = "{secret}"

[flashblocks]
validation = "structural"

[fanout]
listen = "127.0.0.1:{self.fanout_port}"
max_subscribers = {subscribers}
max_per_ip = {subscribers}

[log]
level = "warning"
"""

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (_answers(self.engine_port, "/readyz") and _answers(self.fanout_port, "/healthz")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ChildError(f"the appliance did not start: {self._output.read_text()[-2000:]}")
            time.sleep(0.05)

    def close(self) -> None:
        """SIGTERM, and hard when that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _builders(ports: Sequence[int], secret: pathlib.Path) -> str:
    text = ""
    for number, port in enumerate(ports, 1):
        text += f"""
[[engine.builders]]
name = "builder-{number}"
url = "http://127.0.0.1:{port}"
jwt_secret_file = "{secret}"
"""
        if number == 1:
            text += f'flashblocks_url = "ws://127.0.0.1:{port}/"\n'
    return text


def _answers(port: int, path: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
