"""Tells people and Prometheus what the multiplexer observed. The core never logs; this does it for it."""

from appliance.engine.events import (
    BlockReturned,
    BuilderAbsent,
    CandidateLost,
    Observation,
    OrderTurnedAway,
    Produced,
)
from appliance.engine.metrics import EngineMetrics
from appliance.telemetry.logging import get_logger

log = get_logger("engine")


class Observer:
    """Logs and counts; keeps the last block returned for `statistics`."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics
        self._blocks = 0
        self._by_context: dict[str, int] = {}
        self._last: dict[str, object] | None = None

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
            case Produced():
                pass  # health's business

    def statistics(self) -> dict[str, object]:
        """Blocks returned, by who built them, and the last one."""
        return {"returned": self._blocks, "by_context": dict(self._by_context), "last": self._last}

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
