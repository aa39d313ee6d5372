"""Names that dashboards know."""

from prometheus_client import CollectorRegistry, generate_latest

from appliance.fanout.metrics import FanoutMetrics, Tally

NAMES = (
    "sent_messages",
    "failed_messages",
    "new_connections",
    "closed_connections",
    "lagged_connections",
    "active_connections",
    "rate_limited_requests",
    "unauthorized_requests",
    "bytes_broadcasted",
    "client_pong_disconnects",
)


def test_each_name_of_websocket_proxy_appears_exactly() -> None:
    registry = CollectorRegistry()
    metrics = FanoutMetrics.create(registry)
    metrics.sent_messages.add(3)
    lines = generate_latest(registry).decode().splitlines()
    for name in NAMES:
        assert f"websocket_proxy_{name} {3 if name == 'sent_messages' else 0}.0" in lines


def test_broadcasts_are_timed() -> None:
    registry = CollectorRegistry()
    FanoutMetrics.create(registry).broadcast_seconds.observe(0.15)
    assert registry.get_sample_value("fanout_broadcast_seconds_bucket", {"le": "0.2"}) == 1
    assert registry.get_sample_value("fanout_broadcast_seconds_bucket", {"le": "0.1"}) == 0


def test_a_tally_goes_up_and_down() -> None:
    tally = Tally("some_name", "some text")
    tally.add()
    tally.add(4)
    tally.add(-2)
    (metric,) = tally.collect()
    assert [(sample.name, sample.value) for sample in metric.samples] == [("some_name", 3)]


def test_values_are_given_by_name_for_the_status_page() -> None:
    metrics = FanoutMetrics.create(CollectorRegistry())
    metrics.lagged_connections.add()
    assert metrics.values() == {**dict.fromkeys(NAMES, 0), "catch_ups": 0, "lagged_connections": 1}


def test_two_registries_do_not_share() -> None:
    first, second = FanoutMetrics.create(CollectorRegistry()), FanoutMetrics.create(CollectorRegistry())
    first.sent_messages.add()
    assert second.sent_messages.value == 0
