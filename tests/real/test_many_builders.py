"""Three real builders under `max_gas_used`: two die and come back in turn, one has nothing to put into blocks.

Who knows how many transactions decides whose block uses the most gas, and a block's number of transactions
shows whose it is: the first builder's has three, the second's two, the EL's one, the empty builder's none.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.real.appliance_process import Appliance
from tests.real.conftest import Market
from tests.real.nodes import ExecutionClient
from tests.real.op_node import Block, OpNode, check_one_block_a_slot, do_nothing, follow

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SLOTS = 60
SLOT_S = 0.5
BEHIND_S = 115  # further than half of all slots, so that no block comes from the future
MAX_SLOTS = 220  # of BEHIND_S
RETURN_SLOTS = 40  # a client's start, and the seconds until a builder is trusted again
FIRST, SECOND, EL, EMPTY = 3, 2, 1, 0  # transactions in a block, and in the pool


@pytest.fixture
def appliance(market: Market) -> Iterator[Appliance]:
    # The chain's clock is behind ours on purpose: its heads are not too old.
    started = Appliance(
        market.folder / "appliance", market.el, *market.builders, policy="max_gas_used", max_unsafe_interval_s=300
    )
    try:
        started.start()
        yield started
    finally:
        started.stop()


class Scenario:
    """Slots in which each client that is up has its share of the next transactions."""

    def __init__(self, market: Market, appliance: Appliance) -> None:
        self.appliance = appliance
        self.first, self.second, self.empty = market.builders
        self._el = market.el
        self._wallet = market.wallet
        self._sent: set[tuple[ExecutionClient, str]] = set()
        genesis_block = market.el.block(0)
        assert genesis_block is not None
        self._genesis_hash = str(genesis_block["hash"])
        self.op_node = OpNode(appliance.engine, self._genesis_hash, SLOT_S)
        self.op_node.begin(BEHIND_S)

    def slots(self, count: int, expected: int) -> None:
        """``count`` slots whose blocks are those with ``expected`` transactions."""
        for _ in range(count):
            self.slot(expected)

    def slot(self, *expected: int, during: Callable[[], object] = do_nothing) -> int:
        """One slot; the number of transactions in its block, which is one of ``expected``."""
        self._fill_pools()
        block = self.op_node.run_slot(during)
        count = len(block.transactions)
        slot = len(self.op_node.blocks)
        assert count in expected, f"slot {slot}: {count} transactions instead of {expected}: {self._line_of(block)}"
        return count

    def restart(self, builder: ExecutionClient, own: int, others: int) -> None:
        """Until it is trusted again blocks with ``others`` transactions go out, then its ``own``."""
        self._sent = {(client, raw) for client, raw in self._sent if client is not builder}  # its pool died with it
        builder.process.start()
        self._within_slots(lambda: builder.ready() or self.slot(others) == own)
        self.tell(builder)
        self._within_slots(lambda: self.slot(others, own) == own)

    def tell(self, *builders: ExecutionClient) -> None:
        """As their own op-nodes do: every block that they have missed."""
        for builder in builders:
            latest = builder.block("latest")
            assert latest is not None
            missed = self.op_node.blocks[int(latest["number"], 16) :]
            follow(builder.engine, missed or self.op_node.blocks[-1:], self._genesis_hash)

    @staticmethod
    def _within_slots(run_slot: Callable[[], bool]) -> None:
        """``run_slot`` until it says that it is reached."""
        for _ in range(RETURN_SLOTS):
            if run_slot():
                return
        raise AssertionError(f"not reached after {RETURN_SLOTS} slots")

    def _fill_pools(self) -> None:
        self._wallet.lost_after(self._el.transaction_count(self._wallet.address))
        transfers = [self._wallet.sign_transfer() for _ in range(FIRST)]
        self._send(self._el, transfers[:EL])
        for builder, share in ((self.first, FIRST), (self.second, SECOND), (self.empty, EMPTY)):
            if builder.process.running and builder.ready():
                self._send(builder, transfers[:share])

    def _send(self, client: ExecutionClient, transfers: list[str]) -> None:
        """Those that it has not had: what no block took is still in its pool."""
        for raw in transfers:
            if (client, raw) not in self._sent:
                client.send_transaction(raw)
                self._sent.add((client, raw))

    def _line_of(self, block: Block) -> object:
        return [line for line in self.appliance.returned_blocks() if line["hash"] == block.hash]


def test_many_builders_die_and_come_back_and_are_switched_off_and_on(market: Market, appliance: Appliance) -> None:
    scenario = Scenario(market, appliance)
    scenario.slots(6, FIRST)
    scenario.slot(SECOND, during=scenario.first.kill)
    scenario.slots(5, SECOND)
    scenario.slot(EL, during=scenario.second.kill)
    scenario.slots(4, EL)
    scenario.restart(scenario.second, SECOND, others=EL)
    scenario.slots(3, SECOND)
    _switch_builders_off_and_on(scenario)
    scenario.restart(scenario.first, FIRST, others=SECOND)
    scenario.slots(max(6, SLOTS - len(scenario.op_node.blocks)), FIRST)
    _check_everything(scenario, market)
    assert appliance.stop() == 0


def _switch_builders_off_and_on(scenario: Scenario) -> None:
    """Off, builders hear nothing from us; they follow the chain by their own op-nodes, and so are back at once."""
    assert scenario.appliance.switch("disabled").startswith("disabled ")
    for _ in range(6):
        scenario.slot(EL)
        scenario.tell(scenario.second, scenario.empty)
    assert scenario.appliance.switch("enabled").startswith("enabled ")
    scenario.slots(5, SECOND)


def _check_everything(scenario: Scenario, market: Market) -> None:
    blocks = scenario.op_node.blocks
    assert SLOTS <= len(blocks) <= MAX_SLOTS
    check_one_block_a_slot(blocks, market.el)
    returned = scenario.appliance.returned_blocks()
    assert [line["hash"] for line in returned] == [block.hash for block in blocks]
    names = {FIRST: "first", SECOND: "second", EL: None}
    assert [line["builder"] for line in returned] == [names[len(block.transactions)] for block in blocks]
