"""The harness itself: real nodes driven directly, before anything of ours stands between."""

import http.client
import pathlib

import pytest

from tests.real.anvil import CHAIN_ID, Anvil, mine_together
from tests.real.rpc import RpcClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

GENESIS_TIME = 1_700_000_000


def test_nodes_that_are_told_the_same_have_the_same_chain(tmp_path: pathlib.Path) -> None:
    first, second = (Anvil(name, tmp_path, genesis_time=GENESIS_TIME) for name in ("first", "second"))
    with first, second:
        hashes = [mine_together([first, second], GENESIS_TIME + 12 * number) for number in (1, 2, 3)]
        assert len(set(hashes)) == 3
        assert first.head()["number"] == "0x3"


def test_a_node_that_hangs_takes_connections_and_goes_on_when_it_may(tmp_path: pathlib.Path) -> None:
    with Anvil("node", tmp_path) as node:
        node.hang()
        impatient = RpcClient(node.url, timeout_s=0.5)
        with pytest.raises((OSError, http.client.HTTPException)):
            impatient.call("eth_chainId")
        impatient.close()
        node.resume()
        assert node.rpc.call("eth_chainId") == hex(CHAIN_ID)


def test_a_node_that_is_killed_refuses_and_can_be_started_again(tmp_path: pathlib.Path) -> None:
    node = Anvil("node", tmp_path)
    with node:
        node.kill()
        assert not node.answers()
        node.start()
        assert node.head()["number"] == "0x0"
