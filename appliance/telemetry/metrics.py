"""Process-wide metrics that belong to no plane. Each plane has its own `metrics.py`, on the same registry."""

import gc
from time import perf_counter
from typing import Final

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


# A full collection comes with every 6,400 objects that stay, instead of every 15,800, and is as much shorter. They cost
# no more together, since each object is looked at in one of them only; but more cycles are frozen that die soon after.
_THRESHOLDS: Final = (700, 2, 1)
# How often to look whether a complete collection is due; to look takes 10 ms where a million objects live.
_LOOK_EVERY: Final = 600
_ROOM: Final = 1_000_000  # objects of some 100 bytes


class GarbageCollectionPauses:
    """Keeps full collections short, and times each: every plane feels them (trio#1770).

    9,000 subscribers are a million objects, and a full collection among them is a pause of 270 ms, again and again
    while more come. So what has survived a full collection is frozen: the next one looks only at what came since.
    What dies is freed all the same, by its reference count; only a cycle that was alive in a full collection
    stays. So that this is bounded, there is a complete collection when frozen objects have more than doubled.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = 0.0
        self._count = 0
        self._complete_above = 0
        self._thresholds = gc.get_threshold()
        self._pauses = Histogram(
            "appliance_gc_pause_seconds",
            "Duration of full (generation 2) garbage collections",
            registry=registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
        )

    def install(self) -> None:
        """Freeze what start-up made, so that full collections pass over it, and watch what remains."""
        gc.collect()
        self._freeze_all()
        gc.set_threshold(*_THRESHOLDS)
        gc.callbacks.append(self._on_collection)

    def remove(self) -> None:
        """Undo `install`."""
        gc.callbacks.remove(self._on_collection)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._started = perf_counter()
            return
        self._pauses.observe(perf_counter() - self._started)
        self._count += 1
        if self._count == 0:
            self._freeze_all()
            return
        gc.freeze()
        if self._count >= _LOOK_EVERY:
            self._count = 0
            self._look()

    def _look(self) -> None:
        if gc.get_freeze_count() > self._complete_above:
            gc.unfreeze()  # so the next full collection is a complete one
            self._count = -1

    def _freeze_all(self) -> None:
        """After a complete collection."""
        gc.freeze()
        self._complete_above = 2 * gc.get_freeze_count() + _ROOM
