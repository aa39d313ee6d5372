"""Metrics of the engine, on the registry that is passed in.

What rollup-boost had keeps its name. Its exporter adds no `_total` to counters, prometheus-client always
does, so such a counter is a gauge here that only rises. Label values are configured upstream names and the
few words of events.py.
"""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from appliance.engine.decisions import BlockFacts

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_GAS: Final = (21_000, 100_000, 300_000, 1e6, 3e6, 6e6, 10e6, 15e6, 20e6, 30e6, 45e6, 60e6, 100e6, 200e6)
_TRANSACTIONS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_ETHER: Final = (0, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 10)
_WEI_IN_ETHER: Final = 10**18


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
    heads_turned_away: Counter
    get_payload_seconds: Histogram
    execution_mode: Gauge
    dry_run_choices: Counter
    candidate_gas_used: Histogram
    candidate_transactions: Histogram
    candidate_value_ether: Histogram
    candidate_arrival_seconds: Histogram
    candidate_validation_seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry, prefix: str = "engine") -> "EngineMetrics":
        """Register them; once per registry and ``prefix``. Only the engine's own has rollup-boost's names."""
        blocks_created = "rpc_blocks_created" if prefix == "engine" else f"{prefix}_blocks_created"

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{prefix}_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"{prefix}_{name}_seconds", text, labels, registry=registry, buckets=_SECONDS)

        def candidates(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{prefix}_candidate_{name}", text, ("source",), registry=registry, buckets=buckets)

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
            heads_turned_away=counter("heads_turned_away", "Heads below the parent of a build, told to no builder"),
            get_payload_seconds=seconds("get_payload", "Time until getPayload was answered"),
            execution_mode=Gauge(
                "rollup_boost_execution_mode",
                "3 enabled, 2 dry_run, 1 disabled",
                registry=registry if prefix == "engine" else None,
            ),
            dry_run_choices=counter("dry_run_choices", "Blocks that a dry run would have returned", "source"),
            candidate_gas_used=candidates("gas_used", "Gas used by each block that was there to choose", _GAS),
            candidate_transactions=candidates("transactions", "Transactions of each such block", _TRANSACTIONS),
            candidate_value_ether=candidates("value_ether", "Value that each such block claims", _ETHER),
            candidate_arrival_seconds=seconds("candidate_arrival", "Until each block came, from getPayload", "source"),
            candidate_validation_seconds=seconds("candidate_validation", "Until the EL had judged it", "source"),
        )

    def count_candidate(
        self, source: str, facts: BlockFacts, arrived_s: float | None, validation_s: float | None = None
    ) -> None:
        """A block that was there to choose from, or came later; times in seconds, None for what did not happen."""
        self.candidate_gas_used.labels(source).observe(facts.gas_used)
        self.candidate_transactions.labels(source).observe(facts.transactions)
        if facts.value is not None:
            self.candidate_value_ether.labels(source).observe(facts.value / _WEI_IN_ETHER)
        if arrived_s is not None:
            self.candidate_arrival_seconds.labels(source).observe(arrived_s)
        if validation_s is not None:
            self.candidate_validation_seconds.labels(source).observe(validation_s)
