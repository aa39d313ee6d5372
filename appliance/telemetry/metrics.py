"""Process-wide metrics that belong to no plane. Each plane has its own `metrics.py`, on the same registry."""

import gc
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from appliance import __version__


def create_registry() -> CollectorRegistry:
    """A registry with process, platform and garbage-collector metrics and the version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Info("appliance_build", "Version of the appliance", registry=registry).info({"version": __version__})
    return registry


class GarbageCollectionPauses:
    """Times each full collection: trio's cyclic garbage makes pauses that every plane feels (trio#1770)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = 0.0
        self._pauses = Histogram(
            "appliance_gc_pause_seconds",
            "Duration of full (generation 2) garbage collections",
            registry=registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
        )

    def install(self) -> None:
        """Freeze what start-up made, so that full collections pass over it, and watch what remains."""
        gc.collect()
        gc.freeze()
        gc.callbacks.append(self._on_collection)

    def remove(self) -> None:
        """Undo `install`."""
        gc.callbacks.remove(self._on_collection)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._started = perf_counter()
        else:
            self._pauses.observe(perf_counter() - self._started)
