"""The harness itself: one real client driven directly, before anything of ours stands between."""

import functools

import pytest

from tests.real.conftest import Chain
from tests.real.op_node import OpNode, new_payload

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


def test_one_client_makes_three_blocks_with_a_signed_transaction_each(chain: Chain) -> None:
    op_node = OpNode(chain.el.engine, chain.genesis_hash)
    op_node.begin()
    for number in (1, 2, 3):
        sent = chain.public.sign_transfer()
        block = op_node.run_slot(functools.partial(_send, chain, sent))
        assert block.number == number
        assert block.transactions == [sent]
    stored = chain.el.block("latest")
    assert stored is not None
    assert stored["hash"] == op_node.head


def test_a_killed_client_has_its_chain_again_when_the_missed_blocks_are_fed_to_it(chain: Chain) -> None:
    op_node = OpNode(chain.el.engine, chain.genesis_hash)
    op_node.begin()
    op_node.run_slot()
    assert new_payload(chain.builder.engine, op_node.blocks[0])["status"] == "VALID"
    chain.builder.kill()
    op_node.run_slot()
    chain.builder.start()
    assert [new_payload(chain.builder.engine, block)["status"] for block in op_node.blocks] == ["VALID"] * 2


def _send(chain: Chain, raw: str) -> None:
    chain.el.send_transaction(raw)
