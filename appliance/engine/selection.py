"""Choosing the block for one getPayload: a pure machine over the offers of all sources.

    order    = the policy's, but blocks that hold what subscribers were promised come first, and of them
               the one that the flashblocks themselves add up to
    step     the best offer is VALID                          -> choose it
             nothing is being validated, and an offer has come
             that stands before the best VALID one            -> validate the best such
             no offer is left                                 -> give up
             otherwise                                        -> wait
    unhealthy a builder that is ill stands behind every other source: behind the EL's block, unless its own
             holds what subscribers were promised. It is never waited for while anyone else has a block, and
             its block is not validated while anyone else's may still come.
    deadline pending offers no longer count: the best VALID block is chosen, the EL's own if there is no
             better. With no block at all to return, the first one that turns out VALID is; but only the EL
             and blocks that have come are waited for, so with neither it is over.

One validation runs at a time: an EL executes blocks one after the other, so a second one would only
delay the first.
"""

from dataclasses import dataclass

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import PayloadStatus
from appliance.engine.events import ASSEMBLED, EL
from appliance.engine.offers import Block, BuildOrder, Offer, Standing, facts_of, starts_with
from appliance.engine.policies import Policy
from appliance.wire.engine_answers import BuiltPayload, Verdict


@dataclass(frozen=True, slots=True)
class Choose:
    """Return this block."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class AskVerdict:
    """Let the EL judge this block; it counts as validating from now on."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No source has a block."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is still to come decides."""


Step = Choose | AskVerdict | GiveUp | Wait


class Selection:
    """The offers for one getPayload. ``builders`` in configured order; the EL takes part in any case.

    ``unhealthy`` are the builders that are ill when the choice begins.
    """

    def __init__(
        self,
        order: BuildOrder,
        builders: tuple[str, ...],
        policy: Policy,
        unhealthy: frozenset[str] = frozenset(),
    ) -> None:
        self.unhealthy = unhealthy
        self._order = order
        self._policy = policy
        self._promised: tuple[bytes, ...] = ()
        self._overdue = False
        self._ranks = {name: rank for rank, name in enumerate(builders)}
        self.offers = {name: Offer(name, rank, builder=name) for name, rank in self._ranks.items()}
        self.offers[EL] = Offer(EL, rank=len(builders))

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self._overdue

    @property
    def promised(self) -> tuple[bytes, ...]:
        """The transactions that subscribers were shown beyond the forced ones; empty without a promise."""
        return self._promised

    def promise(self, assembled: AssembledPayload) -> str | None:
        """What the flashblocks add up to is an offer, and a measure for the others; answers an objection.

        Transactions that the payload attributes forced are in every block, so only what goes beyond them
        is a promise.
        """
        offer = Offer(ASSEMBLED, self._ranks.get(assembled.builder, 0), builder=assembled.builder)
        self.offers[ASSEMBLED] = offer
        if len(assembled.transactions) > len(self._order.transactions):
            self._promised = assembled.transactions
            self.offers[EL].preserves = False  # its transactions are its own pool's
        return self._take(offer, assembled, Standing.VALID if assembled.validated else Standing.OFFERED)

    def offer(self, source: str, block: BuiltPayload) -> str | None:
        """A source's block has come; answers an objection when it is not the block that was asked for."""
        offer = self.offers[source]
        if offer.is_local:
            offer.block, offer.standing, offer.facts = block, Standing.VALID, facts_of(block)
            return None
        return self._take(offer, block, Standing.OFFERED)

    def _take(self, offer: Offer, block: Block, standing: Standing) -> str | None:
        offer.facts = facts_of(block)
        if offer.standing is Standing.LOST:
            return None  # withdrawn before it came: it stays out
        objection = self._order.objection(block)
        if objection is not None:
            self._lose(offer, objection)
            return objection
        offer.block, offer.standing = block, standing
        offer.preserves = starts_with(block.transactions, self._promised)
        return None

    def complete(self, source: str, block: BuiltPayload) -> str | None:
        """The EL's own block of a candidate's transactions takes its place; answers an objection."""
        offer = self.offers[source]
        if offer.standing is Standing.LOST:
            return None  # withdrawn meanwhile: it stays out
        offer.completed = True
        return self._take(offer, block, Standing.VALID)

    def lose(self, source: str, reason: str) -> None:
        """A source will have no block."""
        self._lose(self.offers[source], reason)

    def withdraw_builders(self, reason: str) -> None:
        """Only the EL's own block counts from now on."""
        for offer in self.offers.values():
            if not offer.is_local and offer.standing is not Standing.LOST:
                self._lose(offer, reason)

    def judge(self, source: str, verdict: Verdict) -> None:
        """The EL's word on a block: only VALID counts; SYNCING and ACCEPTED say that it does not know."""
        offer = self.offers[source]
        offer.verdict = verdict.status
        if offer.standing is Standing.LOST:
            return  # withdrawn meanwhile: it stays out
        if verdict.status is PayloadStatus.VALID:
            offer.standing = Standing.VALID
        else:
            detail = f": {verdict.validation_error}" if verdict.validation_error else ""
            self._lose(offer, f"{EL} said {verdict.status}{detail}")

    def pass_deadline(self) -> None:
        """From now on only what is VALID counts, and builders that have no block yet do not."""
        self._overdue = True

    def step(self) -> Step:
        """What is to be done now; to be asked again after each change."""
        ranked = self._ranked()
        if not ranked:
            return GiveUp()
        best = next((offer for offer in ranked if offer.standing is Standing.VALID), None)
        if best is not None and (best is ranked[0] or self._overdue):
            return Choose(best)
        candidate = self._next_to_validate(ranked, best)
        if candidate is None:
            return Wait()
        candidate.standing = Standing.VALIDATING
        return AskVerdict(candidate)

    def _ranked(self) -> list[Offer]:
        alive = [offer for offer in self.offers.values() if not self._is_out(offer)]
        return sorted(self._policy(alive), key=self._place)

    def _place(self, offer: Offer) -> tuple[bool, int, bool]:
        ill = offer.builder in self.unhealthy
        return ill and offer.standing is Standing.PENDING, self._promise_class(offer), ill

    def _is_out(self, offer: Offer) -> bool:
        is_late = self._overdue and offer.standing is Standing.PENDING and not offer.is_local
        return is_late or offer.standing is Standing.LOST

    def _promise_class(self, offer: Offer) -> int:
        if not self._promised:
            return 0
        return 0 if offer.is_assembled else 1 if offer.preserves else 2

    def _next_to_validate(self, ranked: list[Offer], best: Offer | None) -> Offer | None:
        if any(offer.standing is Standing.VALIDATING for offer in ranked):
            return None
        ahead = ranked[: ranked.index(best)] if best is not None else ranked
        offered = (offer for offer in ahead if offer.standing is Standing.OFFERED)
        return next((offer for offer in offered if self._may_be_validated(offer, ranked)), None)

    def _may_be_validated(self, offer: Offer, ranked: list[Offer]) -> bool:
        """An ill builder's block would keep the EL busy that others need, so it waits until they are out."""
        if offer.builder not in self.unhealthy or (self._promised and offer.preserves):
            return True
        awaited = (other for other in ranked if other.builder not in self.unhealthy)
        return self._overdue or all(other.standing is not Standing.PENDING for other in awaited)

    @staticmethod
    def _lose(offer: Offer, reason: str) -> None:
        offer.standing, offer.reason, offer.block = Standing.LOST, reason, None
