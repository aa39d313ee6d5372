"""Metrics of the engine, on the registry that is passed in.

What rollup-boost had keeps its name. Its exporter adds no `_total` to counters, prometheus-client always
does, so such a counter is a gauge here that only rises. Label values are configured upstream names and the
few words of events.py.
"""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """All of the plane's metrics."""

    blocks_created: Gauge
    health: Gauge
    upstream_healthy: Gauge
    requests: Counter
    unauthorized: Counter
    upstream_failures: Counter
    upstream_seconds: Histogram
    candidates_lost: Counter
    builders_absent: Counter
    copies_dropped: Counter
    copies_failed: Counter
    settings_replayed: Counter
    orders_turned_away: Counter
    get_payload_seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry, prefix: str = "engine") -> "EngineMetrics":
        """Register them; once per registry and ``prefix``. Only the engine's own has rollup-boost's names."""
        blocks_created = "rpc_blocks_created" if prefix == "engine" else f"{prefix}_blocks_created"

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{prefix}_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"{prefix}_{name}_seconds", text, labels, registry=registry, buckets=_SECONDS)

        return cls(
            blocks_created=Gauge(blocks_created, "Blocks returned by getPayload", ("source",), registry=registry),
            health=Gauge(f"{prefix}_health", "What /healthz answers: 200, 206 or 503", registry=registry),
            upstream_healthy=Gauge(f"{prefix}_upstream_healthy", "1 while healthy", ("upstream",), registry=registry),
            requests=counter("requests", "Calls of op-node, by what they are to us", "call"),
            unauthorized=counter("unauthorized", "Requests without a token that we accept"),
            upstream_failures=counter("upstream_failures", "Calls without an answer", "upstream"),
            upstream_seconds=seconds("upstream", "Time until an upstream answered", "upstream"),
            candidates_lost=counter("candidates_lost", "Blocks that could not be returned, by why", "source", "kind"),
            builders_absent=counter("builders_absent", "Builds that a builder took no part in", "builder"),
            copies_dropped=counter("copies_dropped", "Background requests dropped from a lane", "builder"),
            copies_failed=counter("copies_failed", "Background requests without an answer", "builder"),
            settings_replayed=counter("settings_replayed", "Miner settings said again to a builder", "builder"),
            orders_turned_away=counter("orders_turned_away", "Orders to build beside another one on the same parent"),
            get_payload_seconds=seconds("get_payload", "Time until getPayload was answered"),
        )
