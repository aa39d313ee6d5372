"""Is this the block that was asked for?"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.events import EL
from appliance.engine.offers import BuildOrder, Offer, starts_with
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
