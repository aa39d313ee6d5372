"""`appliance run` with nothing but a provider group, in front of anvils."""

import http.client
import json
import pathlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from tests.real.anvil import Anvil
from tests.real.processes import ChildProcess
from tests.real.rpc import RpcClient
from tests.support.ports import lasting_port

THRESHOLDS = """
probe_interval_s = 0.2
poll_interval_ms = 50
return_after_s = 1
timeout_ms = 1000
max_head_age_s = 3600
max_head_lag = 2
mempool_drop_threshold = 2
"""


class ProvidersProcess:
    """One group, `l1`, whose endpoints are these URLs by name, in order."""

    def __init__(self, folder: pathlib.Path, endpoints: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port, self._admin_port = lasting_port(), lasting_port()
        self.rpc = RpcClient(f"http://127.0.0.1:{self._port}")
        self.websocket_url = f"ws://127.0.0.1:{self._port}"
        config = folder / "appliance.toml"
        tables = [f'[[providers.endpoints]]\nname = "{name}"\nurl = "{url}"\n' for name, url in endpoints.items()]
        head = f'[[providers]]\nname = "l1"\nlisten = "127.0.0.1:{self._port}"\n{THRESHOLDS}\n'
        tail = f'[admin]\nlisten = "127.0.0.1:{self._admin_port}"\n[log]\nformat = "json"\n'
        config.write_text(head + "\n".join(tables) + tail)
        command = [sys.executable, "-m", "appliance", "run", "--config", str(config)]
        self.process = ChildProcess("appliance", command, folder / "appliance.log")

    def __enter__(self) -> Self:
        self.process.start()
        self.process.wait_ready(lambda: self._get(self._port, "/livez")[0] == 200, timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.rpc.close()
        code = self.process.stop()
        assert code == 0, self.process.text()[-2000:]

    def status(self) -> dict[str, Any]:
        """The group's part of the status."""
        planes = json.loads(self._get(self._admin_port, "/api/v1/status")[1])["planes"]
        group: dict[str, Any] = planes["providers"]["groups"]["l1"]
        return group

    def endpoint(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.status()["endpoints"] if each["name"] == name)
        return found

    def metric(self, line: str) -> float:
        """The value behind a metric's name and labels; 0 where there is none."""
        lines = self._get(self._admin_port, "/metrics")[1].decode().splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.startswith(line)), 0.0)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Return when ``condition`` holds; AssertionError with the status when it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, json.dumps(self.status(), indent=1)
            time.sleep(0.02)

    def wait_active(self, node: Anvil) -> None:
        self.wait_until(lambda: self.status()["active"] == node.name)

    def wait_heads(self, *nodes: Anvil) -> None:
        """The appliance has seen the heads that these have."""
        for node in nodes:
            self.wait_until(partial(self._shows, node.name, int(node.head()["number"], 16)))

    def _shows(self, name: str, number: int) -> bool:
        return bool(self.endpoint(name)["head"] == number)

    @staticmethod
    def _get(port: int, path: str) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return None, b""
        finally:
            connection.close()
