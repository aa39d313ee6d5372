"""Selection policies: which block op-node gets when several are there. Small pure functions, chosen by name.

A policy puts offers in order, best first, and those that have not come yet where they would stand if they
turned out as well as they can. So "nothing that is pending stands before the best VALID block" means
that waiting longer cannot improve the choice. Offers that are lost are not shown to it. Equals stand in
configured order, the EL's block behind the builders'.

    builder            the first configured builder's block, the next one's, at last the EL's
    gas_used           the same, with the guard below at a tenth (rollup-boost 0.7.17, BlockSelectionPolicy::GasUsed)
    max_gas_used       most gas used                          of all blocks, the EL's own among them
    max_value          highest blockValue, as it is claimed   the same; flashblocks claim none
    max_transactions   most transactions                      the same

The guard: a builder's block that uses less than a share of the gas of the EL's stands behind the EL's. With it
the EL's answer is waited for, because it may turn any builder's block down.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from appliance.domain.errors import ConfigError
from appliance.engine.offers import Offer
from appliance.wire.engine_answers import BuiltPayload

Policy = Callable[[Sequence[Offer]], list[Offer]]

MIN_GAS_SHARE: Final = 0.1
"""`gas_used` refuses a builder's block that uses less than 1/10 of the gas of the EL's (rollup-boost)."""

_MILLION: Final = 1_000_000  # shares are compared in millionths: 0.1 * 30 is more than 3 in floats


def builder(offers: Sequence[Offer]) -> list[Offer]:
    """Optimistic: the first configured builder's block, the next one's, at last the EL's."""
    return sorted(offers, key=_builders_first)


def max_gas_used(offers: Sequence[Offer]) -> list[Offer]:
    """The block that uses the most gas."""
    return _by_most(offers, lambda offer: offer.taken().gas_used)


def max_value(offers: Sequence[Offer]) -> list[Offer]:
    """The block that claims the highest value. A builder could lie: it is for builders that are trusted."""
    return _by_most(offers, _value)


def max_transactions(offers: Sequence[Offer]) -> list[Offer]:
    """The block with the most transactions."""
    return _by_most(offers, lambda offer: len(offer.taken().transactions))


def guarded(policy: Policy, share: float) -> Policy:
    """The policy behind the guard; ``share`` from 0 (no guard) to 1."""
    return partial(_guarded, policy, round(share * _MILLION)) if share else policy


def _guarded(policy: Policy, millionths: int, offers: Sequence[Offer]) -> list[Offer]:
    local = next((offer for offer in offers if offer.is_local), None)
    if local is None:
        return policy(offers)
    if local.gas_used is None:
        return [local, *policy([offer for offer in offers if offer is not local])]
    least = local.gas_used * millionths
    return sorted(policy(offers), key=lambda offer: offer is not local and _is_poor(offer, least))


def _is_poor(offer: Offer, least: int) -> bool:
    return offer.gas_used is not None and offer.gas_used * _MILLION < least


def _by_most(offers: Sequence[Offer], measure: Callable[[Offer], int]) -> list[Offer]:
    def key(offer: Offer) -> tuple[bool, int, bool, int, bool]:
        has_come = offer.block is not None
        return has_come, -measure(offer) if has_come else 0, *_builders_first(offer)

    return sorted(offers, key=key)


def _builders_first(offer: Offer) -> tuple[bool, int, bool]:
    return offer.is_local, offer.rank, not offer.is_assembled


def _value(offer: Offer) -> int:
    block = offer.taken()
    return (block.block_value or 0) if isinstance(block, BuiltPayload) else 0


_ORDERS: Final[dict[str, Policy]] = {
    "builder": builder,
    "gas_used": builder,
    "max_gas_used": max_gas_used,
    "max_transactions": max_transactions,
    "max_value": max_value,
}

gas_used: Final = guarded(builder, MIN_GAS_SHARE)

POLICIES: Final[dict[str, Policy]] = {**_ORDERS, "gas_used": gas_used}
"""Each with the guard that it has by default: `gas_used` its tenth, the others none."""


def policy_named(name: str, min_gas_share: float | None = None) -> Policy:
    """The policy of that name, with its own guard or the one given; raises ConfigError, which lists the names."""
    if name not in POLICIES:
        raise ConfigError(f"engine.policy: {name!r} is none of {', '.join(sorted(POLICIES))}")
    return POLICIES[name] if min_gas_share is None else guarded(_ORDERS[name], min_gas_share)
