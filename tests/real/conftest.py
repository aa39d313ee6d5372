"""Real execution clients on one chain: the local EL and its builders."""

import pathlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.real.chain import Wallet, genesis
from tests.real.nodes import ExecutionClient, install

GENESIS_AGE_S = 150  # a chain that runs faster than its block time begins in the past


@dataclass(frozen=True)
class Chain:
    """``public`` sends through the front door, ``private`` only to the builder."""

    el: ExecutionClient
    builder: ExecutionClient
    public: Wallet
    private: Wallet
    folder: pathlib.Path

    @property
    def genesis_hash(self) -> str:
        block = self.el.block(0)
        assert block is not None
        return str(block["hash"])


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    install()


@dataclass(frozen=True)
class Market:
    """Several builders; what is in a pool comes from ``wallet``, sent to that client alone."""

    el: ExecutionClient
    builders: tuple[ExecutionClient, ...]
    wallet: Wallet
    folder: pathlib.Path


@pytest.fixture
def chain(tmp_path: pathlib.Path) -> Iterator[Chain]:
    """Both clients started and at genesis; both are stopped afterwards whatever the test did to them."""
    public, private = Wallet(b"\x11" * 32), Wallet(b"\x22" * 32)
    with _running(tmp_path, ["el", "builder"], [public, private]) as (el, builder):
        yield Chain(el, builder, public, private, tmp_path)


@pytest.fixture
def market(tmp_path: pathlib.Path) -> Iterator[Market]:
    """The EL and the builders `first`, `second` and `empty`, as in ``chain``."""
    wallet = Wallet(b"\x11" * 32)
    with _running(tmp_path, ["el", "first", "second", "empty"], [wallet]) as (el, *builders):
        yield Market(el, tuple(builders), wallet, tmp_path)


@contextmanager
def _running(folder: pathlib.Path, names: Sequence[str], wallets: list[Wallet]) -> Iterator[list[ExecutionClient]]:
    block_zero = genesis(int(time.time()) - GENESIS_AGE_S, wallets)
    clients = [ExecutionClient(name, folder / name, block_zero) for name in names]
    try:
        for client in clients:
            client.process.start()  # side by side: each takes seconds
        for client in clients:
            client.process.wait_ready(client.ready)
        yield clients
    finally:
        for client in reversed(clients):
            client.stop()
