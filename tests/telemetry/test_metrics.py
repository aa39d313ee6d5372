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
