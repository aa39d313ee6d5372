"""`appliance run --mock-node`: the load balancer with a node that answers, for trying it out."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from appliance.config.loader import load
from appliance.config.model import AdminConfig, Config, LbConfig, LbNodeConfig, StoreConfig
from appliance.devnet.mock_node import MOCK_NODE_ADDRESS, run_mock_node
from appliance.domain.errors import ConfigError

_NODE = LbNodeConfig(url=f"http://{MOCK_NODE_ADDRESS}")


def mock_config(path: Path | None, folder: Path) -> Config:
    """The file's configuration, or one with nothing but load balancer and admin, with the mock node in it.

    ``folder`` is where the latter keeps what is added; ConfigError for a file without `[lb]`.
    """
    if path is None:
        return Config(store=StoreConfig(folder=str(folder)), lb=LbConfig(nodes=(_NODE,)), admin=AdminConfig())
    config = load(path)
    if config.lb is None:
        raise ConfigError(f"--mock-node: {path} has no section [lb]")
    return msgspec.structs.replace(config, lb=msgspec.structs.replace(config.lb, nodes=(*config.lb.nodes, _NODE)))


async def run_beside_mock_node(run: Callable[[], Awaitable[None]]) -> None:
    """``run``, with the mock node up before it and gone after it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(run_mock_node)
        await run()
        nursery.cancel_scope.cancel()
