"""Selection policies: the order of offers, those that have not come yet included."""

import itertools

import pytest

from appliance.domain.errors import ConfigError
from appliance.engine.events import ASSEMBLED, EL
from appliance.engine.offers import Offer
from appliance.engine.policies import (
    POLICIES,
    builder,
    gas_used,
    guarded,
    max_gas_used,
    max_transactions,
    max_value,
    policy_named,
)
from appliance.wire.engine_answers import decode_payload
from tests.engine import messages as m


def offer(source: str, rank: int, gas: int | None = None) -> Offer:
    block = m.Block(source, gas_used=gas).assembled() if gas is not None else None
    return Offer(source, rank, builder=None if source == EL else source, block=block)


def built(source: str, rank: int, *, gas: int = 100_000, value: int = 1, transactions: int = 0) -> Offer:
    """An offer that getPayload answered."""
    block = m.Block(source, gas_used=gas, value=value, transactions=("0x02",) * transactions)
    found = offer(source, rank)
    found.block = decode_payload(block.answer(), 4)
    return found


def order(policy: object, *offers: Offer) -> list[str]:
    """The order that a policy gives, whatever order the offers come in."""
    assert callable(policy)
    results = {tuple(each.source for each in policy(shuffled)) for shuffled in itertools.permutations(offers)}
    assert len(results) == 1, "the order of the offers must not matter"
    return list(results.pop())


def test_builder_prefers_the_first_configured_and_the_el_last() -> None:
    assert order(builder, offer(EL, 2), offer("beta", 1), offer("alpha", 0)) == ["alpha", "beta", EL]


def test_builder_does_not_look_at_gas() -> None:
    assert order(builder, offer(EL, 1, 10**9), offer("alpha", 0, 1)) == ["alpha", EL]


def test_the_assembled_block_stands_before_its_builders_own() -> None:
    offers = (offer("alpha", 0), offer("beta", 1), offer(ASSEMBLED, 1, 5), offer(EL, 2))
    assert order(builder, *offers) == ["alpha", ASSEMBLED, "beta", EL]


@pytest.mark.parametrize(
    ("builder_gas", "first"),
    [(0, EL), (9_999, EL), (10_000, "alpha"), (10_001, "alpha"), (200_000, "alpha")],
)
def test_gas_used_turns_down_a_block_below_a_tenth_of_the_els(builder_gas: int, first: str) -> None:
    assert order(gas_used, offer("alpha", 0, builder_gas), offer(EL, 1, 100_000))[0] == first


def test_gas_used_waits_for_the_el_because_it_may_turn_any_block_down() -> None:
    assert order(gas_used, offer("alpha", 0, 10**9), offer(EL, 1)) == [EL, "alpha"]


def test_gas_used_hopes_the_best_of_a_builder_that_has_not_answered() -> None:
    offers = (offer("alpha", 0), offer("beta", 1, 5), offer(EL, 2, 100_000))
    assert order(gas_used, *offers) == ["alpha", EL, "beta"]


def test_gas_used_without_the_el_is_builder() -> None:
    assert order(gas_used, offer("beta", 1, 10**9), offer("alpha", 0, 1)) == ["alpha", "beta"]


def test_two_empty_blocks_are_equal_to_gas_used() -> None:
    assert order(gas_used, offer("alpha", 0, 0), offer(EL, 1, 0)) == ["alpha", EL]


MEASURES = [(max_gas_used, "gas"), (max_value, "value"), (max_transactions, "transactions")]


@pytest.mark.parametrize(("policy", "measure"), MEASURES)
def test_the_most_wins_and_the_els_own_is_one_of_them(policy: object, measure: str) -> None:
    offers = [built("alpha", 0, **{measure: 3}), built("beta", 1, **{measure: 9}), built(EL, 2, **{measure: 5})]
    assert order(policy, *offers) == ["beta", EL, "alpha"]


@pytest.mark.parametrize(("policy", "measure"), MEASURES)
def test_equals_stand_in_configured_order_and_the_el_last(policy: object, measure: str) -> None:
    offers = [built("beta", 1, **{measure: 5}), built(EL, 2, **{measure: 5}), built("alpha", 0, **{measure: 5})]
    assert order(policy, *offers) == ["alpha", "beta", EL]


@pytest.mark.parametrize(("policy", "measure"), MEASURES)
def test_what_has_not_come_may_be_the_most(policy: object, measure: str) -> None:
    offers = [built("alpha", 0, **{measure: 9}), offer("beta", 1), offer(EL, 2)]
    assert order(policy, *offers) == ["beta", EL, "alpha"]


def test_an_empty_block_loses_against_the_els_under_max_gas_used() -> None:
    assert order(max_gas_used, built("alpha", 0, gas=0), built(EL, 1, gas=21_000)) == [EL, "alpha"]


def test_flashblocks_claim_no_value() -> None:
    assert order(max_value, offer(ASSEMBLED, 0, 10**9), built("beta", 1, value=1)) == ["beta", ASSEMBLED]


def test_the_guard_turns_a_poor_block_down_whatever_value_it_claims() -> None:
    rich, poor, own = built("alpha", 0, gas=50, value=1), built("beta", 1, gas=49, value=10**30), built(EL, 2, gas=100)
    assert order(max_value, rich, poor, own) == ["beta", "alpha", EL]
    assert order(policy_named("max_value", 0.5), rich, poor, own) == ["alpha", EL, "beta"]
    assert order(policy_named("max_value", 0.0), rich, poor, own) == ["beta", "alpha", EL]


def test_with_a_guard_the_el_is_waited_for_and_without_an_el_there_is_none() -> None:
    policy = policy_named("max_gas_used", 0.1)
    assert order(policy, built("alpha", 0, gas=10**9), offer(EL, 1)) == [EL, "alpha"]
    assert order(policy, built("alpha", 0, gas=1), built("beta", 1, gas=100)) == ["beta", "alpha"]


def test_a_share_is_exact_at_its_edge() -> None:
    assert order(guarded(builder, 0.1), built("alpha", 0, gas=3), built(EL, 1, gas=30))[0] == "alpha"
    assert order(guarded(builder, 0.1), built("alpha", 0, gas=2), built(EL, 1, gas=30))[0] == EL


def test_the_default_guard_is_gas_useds_alone() -> None:
    poor, own = built("alpha", 0, gas=1, value=9, transactions=9), built(EL, 1, gas=100)
    firsts = {name: order(policy, poor, own)[0] for name, policy in POLICIES.items()}
    expected = {"builder": "alpha", "gas_used": EL, "max_gas_used": EL, "max_transactions": "alpha"}
    assert firsts == {**expected, "max_value": "alpha"}
    assert order(policy_named("gas_used", 0.01), poor, own)[0] == "alpha"


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_go_by_name(name: str) -> None:
    assert policy_named(name) is POLICIES[name]
    assert policy_named(name)([]) == []


def test_an_unknown_policy_is_one_clear_line() -> None:
    with pytest.raises(
        ConfigError,
        match=r"engine\.policy: 'best' is none of builder, gas_used, max_gas_used, max_transactions, max_value",
    ):
        policy_named("best")
