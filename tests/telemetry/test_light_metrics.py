from prometheus_client import CollectorRegistry, Histogram, generate_latest

from appliance.telemetry.light_metrics import LightCounter, LightHistogram


def test_a_light_counter_is_scraped_as_a_counter() -> None:
    registry = CollectorRegistry()
    counter = LightCounter("things", "What there was", "kind", ["a", "b"])
    registry.register(counter)
    counter.counts[1] += 3
    assert registry.get_sample_value("things_total", {"kind": "a"}) == 0
    assert registry.get_sample_value("things_total", {"kind": "b"}) == 3
    assert b"# TYPE things_total counter" in generate_latest(registry)


def test_a_light_histogram_says_what_the_librarys_own_says() -> None:
    registry, other = CollectorRegistry(), CollectorRegistry()
    buckets = (0.1, 0.5, 1.0)
    light = LightHistogram("wait_seconds", "Waiting", "priority", ["high", "low"], buckets)
    registry.register(light)
    theirs = Histogram("wait_seconds", "Waiting", ["priority"], buckets=buckets, registry=other)
    for which, name in enumerate(("high", "low")):
        theirs.labels(name)
        for seconds in (0.05, 0.1, 0.2, 0.9, 5.0)[which:]:
            light.observe(which, seconds)
            theirs.labels(name).observe(seconds)
    for name in ("high", "low"):
        for bound in ("0.1", "0.5", "1.0", "+Inf"):
            labels = {"priority": name, "le": bound}
            sample = "wait_seconds_bucket"
            assert registry.get_sample_value(sample, labels) == other.get_sample_value(sample, labels)
        for sample in ("wait_seconds_count", "wait_seconds_sum"):
            labels = {"priority": name}
            assert registry.get_sample_value(sample, labels) == other.get_sample_value(sample, labels)
