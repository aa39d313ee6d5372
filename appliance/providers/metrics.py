"""What the providers count. Two names are those of fuel-block-committer (REFERENCE, section 6)."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class ProviderMetrics:
    """The plane's metrics. ``provider`` is an endpoint's name, ``group`` that of its `[[providers]]` table."""

    network_errors: Gauge
    mempool_drops: Gauge
    requests: Counter
    failed: Counter
    retries: Counter
    switches: Counter
    active: Gauge
    healthy: Gauge
    head: Gauge
    seconds: Histogram
    clients: Gauge
    subscriptions: Gauge
    heads_filled_in: Counter
    clients_dropped: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "ProviderMetrics":
        """Register all of them."""

        def counter(name: str, text: str) -> Counter:
            return Counter(f"providers_{name}", text, ("group",), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"providers_{name}", text, ("group", *labels), registry=registry)

        # Gauges, because a Counter's name would end in _total, and existing dashboards would find nothing.
        return cls(
            network_errors=Gauge("eth_network_errors", "Errors of an endpoint", ("provider",), registry=registry),
            mempool_drops=Gauge("eth_mempool_drops", "Mempool drops at an endpoint", ("provider",), registry=registry),
            requests=counter("requests", "Calls of clients"),
            failed=counter("requests_failed", "Calls that no endpoint answered"),
            retries=counter("retries", "Calls that went to a further endpoint"),
            switches=counter("switches", "Changes of the active endpoint"),
            active=gauge("active", "1 for the active endpoint", "provider"),
            healthy=gauge("healthy", "1 for an endpoint that is well", "provider"),
            head=gauge("head", "Number of an endpoint's newest block", "provider"),
            seconds=Histogram(
                "providers_call_seconds",
                "Time until an endpoint answered",
                ("group", "provider"),
                registry=registry,
                buckets=_SECONDS,
            ),
            clients=gauge("clients", "Websocket clients"),
            subscriptions=gauge("subscriptions", "Subscriptions of websocket clients"),
            heads_filled_in=counter("heads_filled_in", "Heads that no endpoint showed and that were asked for"),
            clients_dropped=counter("clients_dropped", "Websocket clients closed because they or we fell behind"),
        )
