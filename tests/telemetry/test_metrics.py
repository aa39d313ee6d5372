import gc

from prometheus_client import CollectorRegistry, generate_latest

from appliance import __version__
from appliance.telemetry.metrics import GarbageCollectionPauses, create_registry


def test_the_registry_names_the_version_and_the_process() -> None:
    text = generate_latest(create_registry()).decode()
    assert f'appliance_build_info{{version="{__version__}"}} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_full_collections_are_timed_and_young_ones_are_not() -> None:
    registry = CollectorRegistry()
    pauses = GarbageCollectionPauses(registry)
    pauses.install()
    try:
        gc.collect(0)
        before = registry.get_sample_value("appliance_gc_pause_seconds_count")
        gc.collect(2)
        after = registry.get_sample_value("appliance_gc_pause_seconds_count")
    finally:
        pauses.remove()
    assert before is not None
    assert after is not None
    assert after - before == 1


def test_what_survived_a_full_collection_is_not_looked_at_again_and_is_freed_all_the_same() -> None:
    pauses = GarbageCollectionPauses(create_registry())
    thresholds = gc.get_threshold()
    pauses.install()
    try:
        before = gc.get_freeze_count()
        kept = [[number] for number in range(1000)]
        gc.collect(2)
        assert gc.get_freeze_count() - before > 900
        del kept
        assert gc.get_freeze_count() - before < 900
    finally:
        pauses.remove()
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds
