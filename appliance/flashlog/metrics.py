"""What Prometheus sees of the log."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class FlashlogMetrics:
    """One set per log, on an injected registry."""

    appended: Counter
    appended_bytes: Counter
    failed: Counter
    equivocations: Counter
    out_of_order: Counter
    removed: Counter
    append_seconds: Histogram
    batch_size: Histogram
    checkpoint_seconds: Histogram
    head: Gauge
    held_bytes: Gauge
    file_bytes: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "FlashlogMetrics":
        """Register all of them; a second set on one registry is an error of prometheus_client."""

        def counter(name: str, text: str) -> Counter:
            return Counter(f"flashlog_{name}", text, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"flashlog_{name}", text, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"flashlog_{name}", text, registry=registry, buckets=buckets)

        return cls(
            appended=counter("appended_entries", "Flashblocks appended"),
            appended_bytes=counter("appended_bytes", "Bytes of flashblock bodies appended"),
            failed=counter("failed_writes", "Transactions and checkpoints that failed (disk full, say)"),
            equivocations=counter("equivocations", "Second bodies for a key, refused and kept as evidence"),
            out_of_order=counter("out_of_order", "Flashblocks refused because they do not follow"),
            removed=counter("removed_entries", "Flashblocks removed by retention"),
            append_seconds=histogram("append_seconds", "From append to being on disk", _LATENCY),
            batch_size=histogram("batch_size", "Jobs in one transaction", (1, 2, 4, 8, 16, 64, 256)),
            checkpoint_seconds=histogram("checkpoint_seconds", "Copying the WAL into the file", _LATENCY),
            head=gauge("head_position", "Last committed position"),
            held_bytes=gauge("held_bytes", "Bytes that retention counts"),
            file_bytes=gauge("file_bytes", "Size of flashlog.db with its WAL"),
        )
