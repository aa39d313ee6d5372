"""A real execution client from npm as a child process."""

import http.client
import json
import pathlib
import secrets
import shutil
import subprocess
from typing import Any

from tests.real.processes import ChildProcess
from tests.real.rpc import RpcClient, RpcError
from tests.support.ports import lasting_port

FOLDER = pathlib.Path(__file__).parent
CLI = FOLDER / "node_modules" / "@ethereumjs" / "client" / "dist" / "esm" / "bin" / "cli.js"


def install() -> None:
    """`npm ci`, unless what is installed is what the lock says; AssertionError where npm is missing."""
    installed, lock = FOLDER / "node_modules" / ".package-lock.json", FOLDER / "package-lock.json"
    if CLI.exists() and installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = shutil.which("npm")
    assert npm is not None, "the real execution client needs Node and npm, and npm is not installed"
    subprocess.run([npm, "ci", "--no-progress"], cwd=FOLDER, check=True, timeout=300)


class ExecutionClient:
    """`@ethereumjs/client` with Engine API V3, JWT and no peers: it learns only what the tests tell it."""

    def __init__(self, name: str, folder: pathlib.Path, genesis: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.secret = secrets.token_bytes(32)
        self.secret_file = folder / "jwt.hex"
        self.secret_file.write_text(self.secret.hex())
        (folder / "genesis.json").write_text(json.dumps(genesis))
        ports = {"rpcPort": lasting_port(), "rpcEnginePort": lasting_port(), "port": lasting_port()}
        self.engine_url = f"http://127.0.0.1:{ports['rpcEnginePort']}"
        self.engine = RpcClient(self.engine_url, self.secret)
        self.rpc = RpcClient(f"http://127.0.0.1:{ports['rpcPort']}")
        # It writes files of its own beside itself, log or no log.
        self.process = ChildProcess(name, self._command(folder, ports), folder / "output.log", cwd=folder)

    def _command(self, folder: pathlib.Path, ports: dict[str, int]) -> list[str]:
        node = shutil.which("node")
        assert node is not None, "the real execution client needs Node, and node is not installed"
        options: dict[str, object] = {
            "gethGenesis": folder / "genesis.json",
            "dataDir": folder / "data",
            "jwtSecret": self.secret_file,
            "sync": "none",
            "rpcAddr": "127.0.0.1",
            "rpcEngineAddr": "127.0.0.1",
            "extIP": "127.0.0.1",
            "logFile": "false",
            **ports,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        # A node without peers takes transactions only when told that it is alone on purpose.
        return [node, str(CLI), "--rpc", "--rpcEngine", "--isSingleNode", *words]

    def start(self) -> None:
        """Return when both of its ports answer."""
        self.process.start()
        self.process.wait_ready(self.ready)

    def ready(self) -> bool:
        """Both of its ports answer."""
        return self._answers(self.rpc) and self._answers(self.engine)

    def kill(self) -> None:
        """SIGKILL; the next `start` finds the same data folder."""
        self.process.kill()
        self.engine.close()
        self.rpc.close()

    def stop(self) -> None:
        self.process.stop()
        self.engine.close()
        self.rpc.close()

    @staticmethod
    def _answers(client: RpcClient) -> bool:
        try:
            client.call("eth_blockNumber")
        except RpcError:
            return True
        except (OSError, http.client.HTTPException):
            return False
        return True

    def block(self, number: int | str) -> dict[str, Any] | None:
        """The canonical block of that number or tag, with full transactions; None when there is none."""
        tag = number if isinstance(number, str) else hex(number)
        try:
            found: dict[str, Any] | None = self.rpc.call("eth_getBlockByNumber", tag, True)
        except RpcError:
            return None
        return found

    def transaction_count(self, address: str) -> int:
        """The nonce that the next transaction of ``address`` must have."""
        return int(self.rpc.call("eth_getTransactionCount", address, "latest"), 16)

    def send_transaction(self, raw: str) -> str:
        """Into this client's pool alone."""
        return str(self.rpc.call("eth_sendRawTransaction", raw))
