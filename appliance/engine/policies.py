"""Selection policies: which block op-node gets when several are there. Small pure functions, chosen by name.

A policy puts offers in order, best first, and those that have not come yet where they would stand if they
turned out as well as they can. So "nothing that is pending stands before the best VALID block" means
that waiting longer cannot improve the choice. Offers that are lost are not shown to it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from appliance.domain.errors import ConfigError
from appliance.engine.offers import Offer

Policy = Callable[[Sequence[Offer]], list[Offer]]

MIN_GAS_SHARE: Final = 10
"""`gas_used` refuses a builder's block that uses less than 1/10 of the gas of the EL's (rollup-boost)."""


def builder(offers: Sequence[Offer]) -> list[Offer]:
    """Optimistic: the first configured builder's block, the next one's, at last the EL's."""
    return sorted(offers, key=_builders_first)


def gas_used(offers: Sequence[Offer]) -> list[Offer]:
    """rollup-boost's: as `builder`, but the EL's block comes before one with under a tenth of its gas.

    Source: rollup-boost 0.7.17, BlockSelectionPolicy::GasUsed. The EL's answer is waited for, because it
    may turn any builder's block down.
    """
    local = next((offer for offer in offers if offer.is_local), None)
    if local is None:
        return builder(offers)
    if local.gas_used is None:
        return [local, *builder([offer for offer in offers if offer is not local])]
    return sorted(offers, key=lambda offer: (_is_poor(offer, local), *_builders_first(offer)))


def _builders_first(offer: Offer) -> tuple[bool, int, bool]:
    return offer.is_local, offer.rank, not offer.is_assembled


def _is_poor(offer: Offer, local: Offer) -> bool:
    if offer.gas_used is None or local.gas_used is None:
        return False
    return offer.gas_used * MIN_GAS_SHARE < local.gas_used


POLICIES: Final[dict[str, Policy]] = {"builder": builder, "gas_used": gas_used}


def policy_named(name: str) -> Policy:
    """The policy of that name; raises ConfigError with the names that there are."""
    if name not in POLICIES:
        raise ConfigError(f"engine.policy: {name!r} is none of {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
