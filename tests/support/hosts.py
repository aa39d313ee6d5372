"""Configurations for an appliance in front of a simulated network, and subscribers to it."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from appliance.devnet.endpoints import Endpoint
from appliance.net.websocket_client import Inbox, messages


class Network(Protocol):
    """A devnet or a replay: what an appliance is put in front of."""

    @property
    def el_endpoint(self) -> Endpoint: ...

    @property
    def builder_endpoints(self) -> Sequence[Endpoint]: ...


PATIENCE_MS = 20_000
"""Where nobody hangs, a machine that stands still for a second makes no upstream late."""


@dataclass
class HostFiles:
    """One host's folder: secret, configuration and data. ``sections`` overrides keys, by section."""

    folder: Path
    network: Network
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    builder_timeout_ms: int = PATIENCE_MS

    @property
    def secret(self) -> Path:
        """What op-node signs with."""
        path = self.folder / "op-node.jwt"
        if not path.exists():
            path.write_text(os.urandom(32).hex())
        return path

    @property
    def log(self) -> Path:
        """The flashblock log."""
        return self.folder / "data" / "flashlog.db"

    def write(self) -> Path:
        """The configuration file."""
        el = self.network.el_endpoint
        tables: dict[str, dict[str, Any]] = {
            "store": {"folder": "data"},
            "engine": {
                "listen": "127.0.0.1:0",
                "debug_listen": "127.0.0.1:0",
                "jwt_secret_file": str(self.secret),
                "health_check_interval_s": 0.5,
                "builder_deadline_ms": PATIENCE_MS,
            },
            "engine.l2": {"url": el.url, "jwt_secret_file": str(el.secret_file), "timeout_ms": PATIENCE_MS},
            "flashblocks": {},
            "fanout": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "log": {"format": "json", "level": "debug"},
        }
        for name, keys in self.sections.items():
            tables.setdefault(name, {}).update(keys)
        text = "\n".join(_table(f"[{name}]", keys) for name, keys in tables.items())
        text += "\n".join(_table("[[engine.builders]]", self._builder(each)) for each in self.network.builder_endpoints)
        path = self.folder / "appliance.toml"
        path.write_text(text)
        return path

    def _builder(self, endpoint: Endpoint) -> dict[str, Any]:
        keys = {"name": endpoint.name, "url": endpoint.url, "jwt_secret_file": str(endpoint.secret_file)}
        stream = {"flashblocks_url": endpoint.flashblocks_url} if endpoint.flashblocks_url else {}
        return {**keys, **stream, "timeout_ms": self.builder_timeout_ms}


def _table(header: str, keys: dict[str, Any]) -> str:
    return "\n".join([header, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def subscribe(address: str, query: str = "") -> AbstractAsyncContextManager[Inbox]:
    """Connect to the fan-out at ``host:port``."""
    return messages(
        f"ws://{address}/ws{query}",
        ping_interval_s=5,
        pong_timeout_s=60,
        connect_timeout_s=60,
        max_message_bytes=2**24,
    )


async def take(inbox: Inbox, count: int, timeout_s: float = 60.0) -> list[bytes]:
    """The next ``count`` messages."""
    taken: list[bytes] = []
    with trio.fail_after(timeout_s):
        while len(taken) < count:
            body, _ = await anext(inbox)
            taken.append(body)
    return taken


@asynccontextmanager
async def started(nursery: trio.Nursery, network: Any) -> AsyncIterator[Any]:
    """Run a network in the background until the block ends."""
    stopping = trio.Event()

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        await network.run(stopping=stopping, task_status=task_status)

    await nursery.start(run)
    try:
        yield network
    finally:
        stopping.set()
