"""Two real execution clients on one chain: the local EL and the builder."""

import pathlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.real.chain import Wallet, genesis
from tests.real.nodes import ExecutionClient, install

GENESIS_AGE_S = 30


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


@pytest.fixture
def chain(tmp_path: pathlib.Path) -> Iterator[Chain]:
    """Both clients started and at genesis; both are stopped afterwards whatever the test did to them."""
    public, private = Wallet(b"\x11" * 32), Wallet(b"\x22" * 32)
    block_zero = genesis(int(time.time()) - GENESIS_AGE_S, [public, private])
    el = ExecutionClient("el", tmp_path / "el", block_zero)
    builder = ExecutionClient("builder", tmp_path / "builder", block_zero)
    try:
        el.start()
        builder.start()
        yield Chain(el, builder, public, private, tmp_path)
    finally:
        builder.stop()
        el.stop()
