"""Tells people and Prometheus what the multiplexer observed. The core never logs; this does it for it."""

from appliance.domain.modes import ExecutionMode
from appliance.engine.decisions import BlockFacts, Decision
from appliance.engine.events import (
    BlockCameLate,
    BlockReturned,
    BuilderAbsent,
    CandidateLost,
    Decided,
    HeadTurnedAway,
    Observation,
    OrderTurnedAway,
    Produced,
)
from appliance.engine.metrics import EngineMetrics
from appliance.engine.payload_history import PayloadHistory
from appliance.telemetry.logging import get_logger

log = get_logger("engine")


class Observer:
    """Logs and counts; keeps the last block returned for `statistics`."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics
        self._blocks = 0
        self._by_context: dict[str, int] = {}
        self._last: dict[str, object] | None = None
        self._would: dict[str, int] = {}
        self.history = PayloadHistory()

    def observe(self, observation: Observation) -> None:
        """One observation."""
        match observation:
            case BlockReturned():
                self._block_returned(observation)
            case CandidateLost(source, kind, reason):
                self._metrics.candidates_lost.labels(source, kind).inc()
                log.warning("candidate lost", source=source, kind=kind, reason=reason)
            case BuilderAbsent(builder, reason):
                self._metrics.builders_absent.labels(builder).inc()
                log.warning("builder does not build", builder=builder, reason=reason)
            case OrderTurnedAway(parent_hash, reason):
                self._metrics.orders_turned_away.inc()
                log.warning("order to build turned away", parent_hash=parent_hash, reason=reason)
            case HeadTurnedAway(head, reason):
                self._metrics.heads_turned_away.inc()
                log.info("forkchoice turned away", head=head, reason=reason)
            case Decided(decision):
                self._decided(decision)
            case BlockCameLate(_, source, facts, seconds):
                self.history.complete(observation)
                self._metrics.count_candidate(source, facts, seconds)
            case Produced():
                pass  # health's business

    def statistics(self) -> dict[str, object]:
        """Blocks returned, by who built them, and the last one."""
        return {
            "returned": self._blocks,
            "by_context": dict(self._by_context),
            "dry_run_choices": dict(self._would),
            "last": self._last,
        }

    def _decided(self, decision: Decision) -> None:
        self.history.add(decision)
        for candidate in decision.candidates:
            if candidate.facts is not None:
                times = candidate.arrived_s, candidate.validation_s
                self._metrics.count_candidate(candidate.source, candidate.facts, *times)
        if decision.mode is ExecutionMode.DRY_RUN and decision.preferred is not None:
            self._rehearsed(decision, decision.preferred)

    def _rehearsed(self, decision: Decision, preferred: str) -> None:
        self._would[preferred] = self._would.get(preferred, 0) + 1
        self._metrics.dry_run_choices.labels(preferred).inc()
        chosen = decision.candidate(preferred)
        facts = chosen.facts if chosen else None
        log.info("dry run: would have returned", source=preferred, payload_id=decision.payload_id, **_fields(facts))

    def _block_returned(self, block: BlockReturned) -> None:
        self._blocks += 1
        self._by_context[block.context] = self._by_context.get(block.context, 0) + 1
        self._metrics.blocks_created.labels(block.context).inc()
        self._metrics.get_payload_seconds.observe(block.seconds)
        fields: dict[str, object] = {
            "hash": block.block_hash,
            "number": block.block_number,
            "context": str(block.context),
            "payload_id": block.payload_id,
            "builder": block.builder,
            "source": block.source,
        }
        self._last = {**fields, "milliseconds": round(block.seconds * 1000, 3)}
        # rollup-boost's operators and its own tests grep for this line and its first four fields.
        log.info("returning block", **fields, candidates=block.candidates)


def _fields(facts: BlockFacts | None) -> dict[str, object]:
    if facts is None:
        return {}
    return {
        "hash": facts.block_hash,
        "number": facts.block_number,
        "gas_used": facts.gas_used,
        "transactions": facts.transactions,
        "value_wei": facts.value,
    }
