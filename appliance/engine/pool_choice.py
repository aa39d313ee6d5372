"""Choosing among the builders' blocks without an execution client: part of the arbiter's machine.

    place of an offer, best first
      1. healthy builders                                           before ill ones
      2. where subscribers were promised something
           the owner's block, still to come or holding it           first
           any other that holds it
           the flashblocks themselves
           all others
      3. the policy

An offer that has not come counts as good as it can be, but only its owner is hoped to hold what was promised. An ill
builder's that has not come stands last: it is waited for only when there is nothing else.
"""

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.payloads import PayloadSource
from appliance.engine import events as ev
from appliance.engine.events import ASSEMBLED, Command
from appliance.engine.offers import Block, Offer, Standing, starts_with
from appliance.engine.outcomes import Outcome, apology, builders_block
from appliance.engine.policies import Policy
from appliance.engine.reputation import late_word
from appliance.engine.shared_builds import SharedBuild


class PoolChoice:
    """The conversations that choose a block, one per build. ``builders`` in configured order."""

    def __init__(self, builders: tuple[str, ...], policy: Policy) -> None:
        self._ranks = {name: rank for rank, name in enumerate(builders)}
        self._policy = policy

    def on_sealed(self, build: SharedBuild, assembled: object, now: float) -> list[Command]:
        """The stream is fenced, and what it was is known."""
        if build.offers is not None and isinstance(assembled, AssembledPayload):
            offer = Offer(ASSEMBLED, self._ranks.get(assembled.builder, 0), assembled.builder)
            build.offers[ASSEMBLED] = offer
            build.promise(assembled)
            objection = _take(build, offer, assembled)
            lost = [ev.CandidateLost(ASSEMBLED, "refused", objection)] if objection else []
            return [*lost, *self._advance(build, now, overdue=False)]
        return self._advance(build, now, overdue=False)

    def on_block(self, build: SharedBuild, builder: str, outcome: Outcome, now: float) -> list[Command]:
        """A builder's answer to getPayload."""
        if build.offers is None:
            return late_word(builder, outcome, in_time=now <= build.deadline, told=build.overdue)
        offer = build.offers.get(builder)
        if offer is None:
            return []
        try:
            objection = _take(build, offer, builders_block(outcome, build.version))
            kind = "refused"
        except (UnavailableError, RemoteError) as error:
            objection, kind = str(error), "failed"
        commands: list[Command] = []
        if objection is not None:
            offer.standing, offer.reason = Standing.LOST, objection
            commands = [ev.CandidateLost(builder, kind, objection), ev.Produced(builder, ok=False, reason=objection)]
        return commands + self._advance(build, now, overdue=False)

    def on_absent(self, build: SharedBuild, builder: str, now: float) -> list[Command]:
        """A builder's refusal to build came while its block is being waited for."""
        if build.offers is not None and builder in build.offers:
            offer = build.offers[builder]
            offer.standing, offer.reason = Standing.LOST, build.absent[builder]
        return self._advance(build, now, overdue=False)

    def on_deadline(self, build: SharedBuild, now: float) -> list[Command]:
        """What has come by now has to do."""
        if build.offers is None or now < build.deadline:
            return []
        return self._advance(build, now, overdue=True)

    def _advance(self, build: SharedBuild, now: float, *, overdue: bool) -> list[Command]:
        if build.offers is None:
            return []
        ranked = self._ranked(build, list(build.offers.values()))
        best = next((offer for offer in ranked if offer.block is not None), None)
        if best is not None and (best is ranked[0] or overdue):
            return self._conclude(build, build.offers, best, now, overdue=overdue)
        if not ranked or overdue:
            return _give_up(build, build.offers)
        return []

    def _ranked(self, build: SharedBuild, offers: list[Offer]) -> list[Offer]:
        alive = [offer for offer in offers if offer.standing is not Standing.LOST]

        def place(offer: Offer) -> tuple[bool, bool, int]:
            ill = offer.builder in build.unhealthy
            return ill and offer.block is None, ill, _promise_class(build, offer)

        return sorted(self._policy(alive), key=place)

    def _conclude(
        self, build: SharedBuild, offers: dict[str, Offer], best: Offer, now: float, *, overdue: bool
    ) -> list[Command]:
        block = build.chosen = best.taken()
        build.overdue = overdue
        askers, build.askers, build.offers = build.askers, [], None
        replies: list[Command] = [ev.Reply(each.ticket, build.answer_for(each.identifier)) for each in askers]
        returned = ev.BlockReturned(
            block_hash=block.block_hash,
            block_number=block.block_number,
            payload_id=build.payload_id,
            context=PayloadSource.BUILDER,
            builder=best.builder,
            source=best.source,
            candidates={name: str(offer) for name, offer in offers.items()},
            seconds=now - build.asked_at,
        )
        words = [word for offer in offers.values() for word in _words(offer, overdue=overdue)]
        return [*replies, *words, returned, ev.PayloadReturned(build.build_id, block.block_hash)]


def _promise_class(build: SharedBuild, offer: Offer) -> int:
    if not build.promised:
        return 0
    if offer.is_assembled:
        return 2
    if offer.builder == build.owner and (offer.block is None or offer.preserves):
        return 0
    return 1 if offer.block is not None and offer.preserves else 3


def _take(build: SharedBuild, offer: Offer, block: Block) -> str | None:
    objection = build.order.objection(block)
    if objection is not None:
        offer.standing, offer.reason = Standing.LOST, objection
        return objection
    offer.block, offer.standing = block, Standing.OFFERED
    offer.preserves = starts_with(block.transactions, build.promised)
    return None


def _words(offer: Offer, *, overdue: bool) -> list[Command]:
    """What the choice says of a builder's health: see reputation.py."""
    if offer.is_assembled or offer.builder is None:
        return []
    if offer.standing is Standing.OFFERED:
        return [ev.Produced(offer.builder, ok=True, reason="")]
    if offer.standing is not Standing.PENDING or not overdue:
        return []
    reason = "still pending at the deadline"
    return [ev.CandidateLost(offer.source, "late", reason), ev.Produced(offer.builder, ok=False, reason=reason)]


def _give_up(build: SharedBuild, offers: dict[str, Offer]) -> list[Command]:
    """Nobody has a block; whoever asks again starts anew."""
    askers, build.askers, build.offers, build.overdue = build.askers, [], None, True
    reasons = "; ".join(f"{offer.source}: {offer}" for offer in offers.values()) or "no builder built it"
    words = [word for offer in offers.values() for word in _words(offer, overdue=True)]
    return [*(apology(each, f"no builder has a block: {reasons}") for each in askers), *words]
