"""What observations become in metrics: all numbers of each candidate, by source."""

from prometheus_client import CollectorRegistry

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId
from appliance.engine.events import BlockCameLate, Decided, HeadTurnedAway, OrderTurnedAway
from appliance.engine.metrics import EngineMetrics
from appliance.engine.observer import Observer
from tests.engine.test_payload_history import FACTS, decision


class Watched:
    """An observer and what Prometheus would read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = Observer(EngineMetrics.create(self.registry))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"engine_{name}", labels)


def test_every_number_of_a_candidate_is_a_histogram_by_source() -> None:
    watched = Watched()
    watched.observer.observe(Decided(decision(mode=ExecutionMode.DRY_RUN, returned="l2")))
    for name, total in (
        ("gas_used", 100_000),
        ("transactions", 3),
        ("value_ether", 2**200 / 10**18),
        ("arrival_seconds", 0.0125),
        ("validation_seconds", 0.002),
    ):
        assert watched.value(f"candidate_{name}_sum", source="alpha") == total
        assert watched.value(f"candidate_{name}_count", source="l2") is None, "its block did not come"
    assert watched.value("dry_run_choices_total", source="alpha") == 1


def test_a_block_that_came_late_has_its_time_and_no_verdict() -> None:
    watched = Watched()
    watched.observer.observe(BlockCameLate(BuildId(1), "beta", FACTS, 1.5))
    assert watched.value("candidate_arrival_seconds_sum", source="beta") == 1.5
    assert watched.value("candidate_validation_seconds_count", source="beta") is None


def test_what_is_turned_away_is_counted() -> None:
    watched = Watched()
    watched.observer.observe(OrderTurnedAway("0xaa", "one is being built"))
    watched.observer.observe(HeadTurnedAway("0xaa", "a higher one is built on"))
    assert watched.value("orders_turned_away_total") == watched.value("heads_turned_away_total") == 1
