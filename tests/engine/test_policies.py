"""Selection policies: the order of offers, those that have not come yet included."""

import itertools

import pytest

from appliance.domain.errors import ConfigError
from appliance.engine.events import ASSEMBLED, EL
from appliance.engine.offers import Offer
from appliance.engine.policies import POLICIES, builder, gas_used, policy_named
from tests.engine import messages as m


def offer(source: str, rank: int, gas: int | None = None) -> Offer:
    block = m.Block(source, gas_used=gas).assembled() if gas is not None else None
    return Offer(source, rank, builder=None if source == EL else source, block=block)


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


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_go_by_name(name: str) -> None:
    assert policy_named(name) is POLICIES[name]
    assert policy_named(name)([]) == []


def test_an_unknown_policy_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"engine\.policy: 'best' is none of builder, gas_used"):
        policy_named("best")
