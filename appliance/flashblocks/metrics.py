"""Metrics of the flashblock plane, on the registry that is passed in.

What rollup-boost had keeps its name. Its exporter adds no `_total` to counters, prometheus-client always
does, so those are gauges here that only rise: dashboards and alerts on `rate()` go on working.
"""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from appliance.domain.payloads import PayloadState
from appliance.flashblocks.commands import Dropped, Fate, Paused, Reason, Sealed

MISMATCHES: Final = frozenset({Reason.LATE, Reason.REPLACED, Reason.UNANNOUNCED})
"""Reasons that rollup-boost counts as `current_payload_id_mismatch`."""

HARMLESS: Final = frozenset({Reason.DUPLICATE, Reason.UNPUBLISHED, Reason.PAUSED})
"""Reasons that are neither a mismatch nor an error of the message itself."""

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class FlashblockMetrics:
    """All of the plane's metrics. Label values are configured builder names and `Reason`s, so bounded."""

    reconnect_attempts: Gauge
    connection_status: Gauge
    messages_received: Gauge
    decode_errors: Counter
    extend_payload_errors: Gauge
    current_payload_id_mismatch: Gauge
    messages_processed: Gauge
    flashblocks_gauge: Gauge
    flashblocks_missing_histogram: Histogram
    dropped: Counter
    paused: Counter
    published: Counter
    append_seconds: Histogram
    validate_seconds: Histogram
    publish_seconds: Histogram
    landed: Counter
    payloads_dropped: Counter
    stream_healthy: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "FlashblockMetrics":
        """Register them; once per registry."""
        inbound, service, builder = "flashblocks_ws_inbound_", "flashblocks_service_", ("builder",)
        return cls(
            reconnect_attempts=Gauge(
                inbound + "reconnect_attempts",
                "Websocket connection attempts after the first one",
                builder,
                registry=registry,
            ),
            connection_status=Gauge(
                inbound + "connection_status",
                "1 while the builder's websocket is connected",
                builder,
                registry=registry,
            ),
            messages_received=Gauge(
                inbound + "messages_received",
                "Messages received from the builder",
                builder,
                registry=registry,
            ),
            decode_errors=Counter(
                inbound + "decode_errors",
                "Messages that are not a flashblock",
                builder,
                registry=registry,
            ),
            extend_payload_errors=Gauge(
                service + "extend_payload_errors",
                "Flashblocks that could not extend their payload",
                registry=registry,
            ),
            current_payload_id_mismatch=Gauge(
                service + "current_payload_id_mismatch",
                "Flashblocks of a payload that is not being built (any more)",
                registry=registry,
            ),
            messages_processed=Gauge(
                service + "messages_processed",
                "Flashblocks that were looked at",
                registry=registry,
            ),
            flashblocks_gauge=Gauge(
                service + "flashblocks_gauge",
                "Flashblocks published of the last payload when getPayload came",
                registry=registry,
            ),
            flashblocks_missing_histogram=Histogram(
                service + "flashblocks_missing_histogram",
                "Flashblocks known of but not published when getPayload came",
                registry=registry,
                buckets=(0, 1, 2, 3, 5, 10, 20),
            ),
            dropped=Counter(
                service + "dropped", "Flashblocks not published, by reason", ("reason",), registry=registry
            ),
            paused=Counter(
                service + "paused",
                "Builder streams stopped for a payload, by reason",
                ("reason",),
                registry=registry,
            ),
            published=Counter(service + "published", "Flashblocks that are in the log", builder, registry=registry),
            append_seconds=Histogram(
                service + "append_seconds",
                "Time until a flashblock is on disk",
                registry=registry,
                buckets=_SECONDS,
            ),
            validate_seconds=Histogram(
                service + "validate_seconds",
                "Time until the EL judged a flashblock",
                registry=registry,
                buckets=_SECONDS,
            ),
            publish_seconds=Histogram(
                service + "publish_seconds",
                "Time from a flashblock's arrival until it is on disk",
                registry=registry,
                buckets=_SECONDS,
            ),
            landed=Counter(
                "flashblocks_landed", "Payloads shown to subscribers whose block became head", registry=registry
            ),
            stream_healthy=Gauge(
                service + "stream_healthy",
                "0 while block after block is built without a flashblock being shown",
                registry=registry,
            ),
            payloads_dropped=Counter(
                "flashblocks_dropped", "Payloads shown to subscribers whose block did not", registry=registry
            ),
        )

    def count_dropped(self, note: Dropped) -> None:
        """Count it by reason, and under rollup-boost's names."""
        self.dropped.labels(note.reason).inc(note.count)
        if note.reason in MISMATCHES:
            self.current_payload_id_mismatch.inc(note.count)
        elif note.reason not in HARMLESS:
            self.extend_payload_errors.inc(note.count)

    def count_fate(self, note: Fate) -> None:
        """Count a payload that landed or was dropped."""
        (self.landed if note.state is PayloadState.LANDED else self.payloads_dropped).inc()

    def count_paused(self, note: Paused) -> None:
        """Count a stream that stopped."""
        self.paused.labels(note.reason).inc()

    def count_sealed(self, note: Sealed) -> None:
        """How complete the stream was at the fence."""
        self.flashblocks_gauge.set(note.published)
        self.flashblocks_missing_histogram.observe(note.missing)
