"""Is this the block that was asked for?"""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.events import EL
from appliance.engine.offers import BuildOrder, Offer, starts_with
from appliance.wire.engine_answers import decode_payload
from appliance.wire.extra_data import FeeRules
from tests.engine import messages as m

ORDER = BuildOrder(m.PARENT, m.TIMESTAMP, m.ROOT, (b'"%b"' % m.DEPOSIT.encode(),))


@pytest.mark.parametrize(
    ("block", "objection"),
    [
        (m.Block("right"), None),
        (m.Block("right", transactions=("0x02",)), None),
        (m.Block("loud", parent="0x" + "AA" * 32), None),
        (m.Block("stale", parent="0x" + "00" * 32), f"parent 0x{'00' * 32}, asked for {m.PARENT}"),
        (m.Block("late", timestamp=m.TIMESTAMP + 1), f"timestamp {m.TIMESTAMP + 1}, asked for {m.TIMESTAMP}"),
        (m.Block("empty", deposits=()), "does not begin with the transactions of the payload attributes"),
    ],
)
def test_objections(block: m.Block, objection: str | None) -> None:
    assert ORDER.objection(block.assembled()) == objection


FULL_ORDER = replace(
    ORDER, fee_recipient=m.FEE_RECIPIENT, prev_randao=m.ROOT.upper(), gas_limit=m.GAS_LIMIT, withdrawals=()
)


@pytest.mark.parametrize(
    ("block", "objection"),
    [
        (m.Block("right"), None),
        (m.Block("loud", fee_recipient=m.FEE_RECIPIENT.upper(), beacon_root=m.ROOT.upper()), None),
        (m.Block("greedy", fee_recipient="0x66"), f"fee recipient 0x66, asked for {m.FEE_RECIPIENT}"),
        (m.Block("nobody's", fee_recipient=None), f"fee recipient None, asked for {m.FEE_RECIPIENT}"),
        (m.Block("lucky", prev_randao="0x66" + "f" * 500), f"prevRandao 0x66{'f' * 76}, asked for {m.ROOT.upper()}"),
        (m.Block("wide", gas_limit=m.GAS_LIMIT + 1), f"gas limit {m.GAS_LIMIT + 1}, asked for {m.GAS_LIMIT}"),
        (m.Block("unbound", gas_limit=None), f"gas limit None, asked for {m.GAS_LIMIT}"),
        (m.Block("paid out", withdrawals=("1",)), "other withdrawals than the payload attributes"),
        (m.Block("pre-Canyon", withdrawals=None), "other withdrawals than the payload attributes"),
        (m.Block("rootless", beacon_root="0x66"), f"beacon root 0x66, asked for {m.ROOT}"),
    ],
)
def test_what_the_attributes_fix_may_not_differ(block: m.Block, objection: str | None) -> None:
    assert FULL_ORDER.objection(block.assembled()) == objection
    assert FULL_ORDER.objection(decode_payload(block.answer(), 4)) == objection


def test_what_the_attributes_do_not_have_is_the_builders_affair() -> None:
    block = m.Block("own", fee_recipient="0x66", prev_randao=None, gas_limit=1, withdrawals=("1",), beacon_root=None)
    assert replace(ORDER, parent_beacon_block_root=None).objection(decode_payload(block.answer(), 4)) is None


def test_withdrawals_are_compared_one_by_one() -> None:
    order = replace(ORDER, withdrawals=(b'"1"', b'"2"'))
    assert order.objection(m.Block("same", withdrawals=("1", "2")).assembled()) is None
    for other in (("1",), ("1", "3"), ("1", "2", "3")):
        assert order.objection(m.Block("other", withdrawals=other).assembled()) is not None


@pytest.mark.parametrize("version", [1, 2])
def test_versions_without_a_beacon_root_are_not_asked_for_one(version: int) -> None:
    assert FULL_ORDER.objection(decode_payload(m.Block("b", beacon_root=None).answer(version=version), version)) is None


@given(st.lists(st.binary(max_size=3)), st.lists(st.binary(max_size=3)))
def test_starts_with_is_what_it_says(have: list[bytes], wanted: list[bytes]) -> None:
    lower = [transaction.lower() for transaction in have]
    expected = lower[: len(wanted)] == [transaction.lower() for transaction in wanted]
    assert starts_with(have, wanted) is expected
    assert starts_with([msgspec.Raw(transaction) for transaction in have], wanted) is expected


def test_every_block_starts_with_nothing() -> None:
    assert starts_with([], ())
    assert starts_with([b"1"], ())


def test_an_offer_says_how_it_stands() -> None:
    assert str(Offer("alpha", 0, "alpha")) == "pending"
    assert Offer(EL, 1).is_local
    assert not Offer("alpha", 0, "alpha").is_assembled
    assert Offer("alpha", 0).gas_used is None


def test_a_block_with_other_fee_rules_is_not_the_one_that_was_asked_for() -> None:
    """The EL calls it VALID; whoever derives the chain would get another block."""
    order = replace(ORDER, fees=FeeRules("000000fa00000006", 5))
    for extra, objection in (
        ("0x01000000fa00000006" + f"{5:016x}", None),
        ("0x01000000fb00000006" + f"{5:016x}", "eip1559Params 0x000000fb00000006, asked for 0x000000fa00000006"),
        ("0x01000000fa00000006" + f"{6:016x}", "minBaseFee 0x0000000000000006, asked for 5"),
    ):
        block = m.Block("fees", extra_data=extra)
        assert order.objection(block.assembled()) == objection
        assert order.objection(decode_payload(block.answer(), 4)) == objection
