"""The main job on real clients: the builder's blocks, the EL's while it is dead, the builder's again."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.real.appliance_process import Appliance
from tests.real.conftest import Chain
from tests.real.op_node import Block, OpNode, check_one_block_a_slot, new_payload

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

BUILDER_SLOTS = 7
DEAD_SLOTS = 6
AGAIN_SLOTS = 8
RETURN_SLOTS = 30  # three good ones over three seconds are enough
RESTART_SLOTS = 30  # far more than a client needs to start; the test fails rather than waits for ever


@pytest.fixture
def appliance(chain: Chain) -> Iterator[Appliance]:
    started = Appliance(chain.folder / "appliance", chain.el, chain.builder)
    try:
        started.start()
        yield started
    finally:
        started.stop()


class Scenario:
    """Runs slots in which transactions are sent: one through the appliance, and one to the builder alone."""

    def __init__(self, chain: Chain, appliance: Appliance) -> None:
        self.chain = chain
        self.appliance = appliance
        self.op_node = OpNode(appliance.engine, chain.genesis_hash)
        self.op_node.begin()

    def send_public(self) -> str:
        """Through the front door: the EL has it, and the appliance mirrors it to the builder."""
        raw = self.chain.public.sign_transfer()
        self.appliance.engine.call("eth_sendRawTransaction", raw)
        return raw

    def send_private(self) -> str:
        """What makes the builder's block another one than the EL's."""
        raw = self.chain.private.sign_transfer()
        self.chain.builder.send_transaction(raw)
        return raw

    def expect_builder_block(self) -> None:
        private = self.send_private()
        sent: list[str] = []
        block = self.op_node.run_slot(lambda: sent.append(self.send_public()))
        assert private in block.transactions, "only the builder knew this transaction"
        assert self.source_of(block) == "builder"

    def expect_el_block(self) -> None:
        sent: list[str] = []
        block = self.op_node.run_slot(lambda: sent.append(self.send_public()))
        assert sent[0] in block.transactions
        assert self.source_of(block) == "l2"

    def source_of(self, block: Block) -> str:
        """`context` of the one log line about ``block``."""
        lines = [line for line in self.appliance.returned_blocks() if line["hash"] == block.hash]
        assert len(lines) == 1, lines
        assert lines[0]["payload_id"] == block.payload_id
        assert int(str(lines[0]["number"]), 0) == block.number
        return str(lines[0]["context"])

    def feed_builder(self) -> None:
        """As the builder's own op-node does after a restart: every block that it may have missed."""
        statuses = [new_payload(self.chain.builder.engine, block)["status"] for block in self.op_node.blocks]
        assert set(statuses) == {"VALID"}, statuses
        # What was in its pool died with it.
        private = self.chain.private
        private.lost_after(self.chain.el.transaction_count(private.address))


def test_builder_is_killed_and_comes_back(chain: Chain, appliance: Appliance) -> None:
    scenario = Scenario(chain, appliance)
    for _ in range(BUILDER_SLOTS):
        scenario.expect_builder_block()
    assert appliance.get("/healthz") == 200
    _kill_the_builder_while_it_builds(scenario)
    for _ in range(DEAD_SLOTS):
        scenario.expect_el_block()
    assert appliance.get("/healthz") == 206
    _restart_the_builder_while_slots_go_on(scenario)
    _wait_until_it_is_trusted_again(scenario)
    for _ in range(AGAIN_SLOTS):
        scenario.expect_builder_block()
    assert appliance.get("/healthz") == 200
    _check_the_whole_chain(scenario)
    assert appliance.stop() == 0


def _kill_the_builder_while_it_builds(scenario: Scenario) -> None:
    """Its FCU was answered and its block is half built: the EL's block must come in this same slot."""
    lost = scenario.send_private()
    block = scenario.op_node.run_slot(scenario.chain.builder.kill)
    assert lost not in block.transactions
    assert scenario.source_of(block) == "l2"


def _restart_the_builder_while_slots_go_on(scenario: Scenario) -> None:
    """Until it has synced it answers SYNCING, and the EL's blocks go on; then it is fed what it missed."""
    builder = scenario.chain.builder
    builder.process.start()
    for _ in range(RESTART_SLOTS):
        scenario.expect_el_block()
        if builder.ready():
            break
    scenario.expect_el_block()
    block = scenario.op_node.run_slot(scenario.feed_builder)
    assert scenario.source_of(block) == "l2"


def _wait_until_it_is_trusted_again(scenario: Scenario) -> None:
    """A return takes several good observations over some seconds; whose blocks go out meanwhile is open."""
    for _ in range(RETURN_SLOTS):
        scenario.op_node.run_slot(lambda: None)
        if scenario.appliance.get("/healthz") == 200:
            return
    raise AssertionError(f"still not trusted after {RETURN_SLOTS} slots")


def _check_the_whole_chain(scenario: Scenario) -> None:
    blocks = scenario.op_node.blocks
    assert len(blocks) >= 20
    check_one_block_a_slot(blocks, scenario.chain.el)
    returned = scenario.appliance.returned_blocks()
    assert [line["hash"] for line in returned] == [block.hash for block in blocks]
    sources = Counter(line["context"] for line in returned)
    assert BUILDER_SLOTS + AGAIN_SLOTS <= sources["builder"] <= BUILDER_SLOTS + AGAIN_SLOTS + 1
    assert sources["l2"] == len(blocks) - sources["builder"]
