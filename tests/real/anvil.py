"""Real JSON-RPC nodes from npm: anvil. Nodes that are told the same things have the same chain, hash for hash."""

import http.client
import pathlib
import time
from typing import Any, Final, Self

import pytest

from tests.real.nodes import FOLDER
from tests.real.processes import ChildProcess
from tests.real.rpc import RpcClient
from tests.support.ports import lasting_port

# The program itself: the package's own launcher is a Node process around it that a SIGSTOP would hit instead.
BINARY: Final = FOLDER / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
CHAIN_ID: Final = 31337
KEY: Final = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""Of anvil's first funded account (its well-known test mnemonic)."""


class Anvil:
    """One node. By default it mines only when told (`mine`); with ``block_time_s`` it mines by itself."""

    def __init__(
        self, name: str, folder: pathlib.Path, *, genesis_time: int | None = None, block_time_s: float | None = None
    ) -> None:
        if not BINARY.exists():
            pytest.skip("@foundry-rs/anvil has no program for this machine here")
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port = lasting_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.port}"
        self.genesis_time = int(time.time()) if genesis_time is None else genesis_time
        self.rpc = RpcClient(self.url)
        mining = ["--no-mining"] if block_time_s is None else ["--block-time", str(block_time_s)]
        options = ["--port", str(self.port), "--timestamp", str(self.genesis_time), "--threads", "1", *mining]
        # Without a home of its own it would write its cache of states into the user's.
        self.process = ChildProcess(
            name, [str(BINARY), *options], folder / f"{name}.log", env={"HOME": str(folder)}, cwd=folder
        )

    def __repr__(self) -> str:
        return f"<Anvil {self.name} {self.url}>"

    def start(self) -> Self:
        """Return when it answers. A chain ends with its process: a new start begins at genesis again."""
        self.process.start()
        self.process.wait_ready(self.answers)
        return self

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            self.rpc.call("eth_chainId")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def mine(self, timestamp: int) -> None:
        """One block with this timestamp and all that waits in the pool."""
        self.rpc.call("evm_mine", timestamp)

    def head(self) -> dict[str, Any]:
        """Its latest block."""
        block: dict[str, Any] = self.rpc.call("eth_getBlockByNumber", "latest", False)
        return block

    def send_transaction(self, raw: str) -> str:
        """Into this node's pool; the hash."""
        return str(self.rpc.call("eth_sendRawTransaction", raw))

    def drop_transaction(self, transaction_hash: str) -> None:
        """Out of the pool again, as a node does that runs full."""
        self.rpc.call("anvil_dropTransaction", transaction_hash)

    def hang(self) -> None:
        """SIGSTOP: its kernel takes connections and bytes, and nobody answers."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def kill(self) -> None:
        """SIGKILL, also of one that hangs."""
        self.rpc.close()
        self.process.kill()

    def stop(self) -> None:
        """Its end, whatever state it is in. A stopped process hears no SIGTERM, and has nothing to tidy."""
        self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def mine_together(nodes: list[Anvil], timestamp: int) -> str:
    """One block on all of them; its hash, which is the same on all that saw the same blocks and transactions."""
    for node in nodes:
        node.mine(timestamp)
    hashes = {str(node.head()["hash"]) for node in nodes}
    assert len(hashes) == 1, f"the nodes differ: {hashes}"
    return hashes.pop()
