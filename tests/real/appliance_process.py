"""`appliance run` as the operator starts it: a configuration file, a process, and what it logs."""

import http.client
import json
import pathlib
import secrets
import subprocess
import sys
from typing import Any

from tests.real.nodes import ExecutionClient
from tests.real.processes import ChildProcess
from tests.real.rpc import RpcClient
from tests.support.ports import lasting_port

COMMAND = (sys.executable, "-m", "appliance")
PATIENCE_MS = 20_000
"""None of the real clients hangs: each answers, or is gone. A machine that stands still for a second is neither."""


class Appliance:
    """The appliance in front of ``el`` and ``builders``; op-node's connection is ``engine``."""

    def __init__(
        self,
        folder: pathlib.Path,
        el: ExecutionClient,
        *builders: ExecutionClient,
        policy: str = "builder",
        max_unsafe_interval_s: int = 10,
    ) -> None:
        folder.mkdir(parents=True)
        secret = secrets.token_bytes(32)
        (folder / "jwt.hex").write_text("0x" + secret.hex() + "\n")
        self._port, self._admin_port = lasting_port(), lasting_port()
        self.engine = RpcClient(f"http://127.0.0.1:{self._port}", secret)
        config = folder / "appliance.toml"
        engine = f'policy = "{policy}"\nmax_unsafe_interval_s = {max_unsafe_interval_s}'
        config.write_text(self._config(folder, engine, el) + "".join(_builder_config(each) for each in builders))
        command = [*COMMAND, "run", "--config", str(config)]
        self.process = ChildProcess("appliance", command, folder / "output.log")

    def _config(self, folder: pathlib.Path, engine: str, el: ExecutionClient) -> str:
        return f"""
[store]
folder = "{folder / "data"}"

[engine]
listen = "127.0.0.1:{self._port}"
debug_listen = "127.0.0.1:0"
jwt_secret_file = "{folder / "jwt.hex"}"
health_check_interval_s = 1
builder_deadline_ms = {PATIENCE_MS}
{engine}

[engine.l2]
url = "{el.engine_url}"
jwt_secret_file = "{el.secret_file}"
timeout_ms = {PATIENCE_MS}

[admin]
listen = "127.0.0.1:{self._admin_port}"

[log]
format = "json"
"""

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(lambda: self.get("/readyz") == 200, timeout_s=60.0)

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.engine.close()
        return self.process.stop()

    def switch(self, mode: str) -> str:
        """`appliance mode` as the operator types it; what it prints."""
        command = [*COMMAND, "mode", mode, "--url", f"http://127.0.0.1:{self._admin_port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120.0, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, path: str) -> int | None:
        """The HTTP status of a GET on the engine's port, None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def returned_blocks(self) -> list[dict[str, Any]]:
        """The fields of each "returning block" line, in order."""
        lines = [json.loads(line) for line in self.process.text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == "returning block"]


def _builder_config(builder: ExecutionClient) -> str:
    return f"""
[[engine.builders]]
name = "{builder.name}"
url = "{builder.engine_url}"
jwt_secret_file = "{builder.secret_file}"
timeout_ms = {PATIENCE_MS}
"""
