"""Health: three statuses, each with its reasons, and no flapping on one failed call."""

import pytest

from appliance.domain.health import Health, HealthFact
from appliance.engine.events import EL
from appliance.engine.health import RECHECK_S, HealthMachine

NOW = 1_700_000_000.0


@pytest.fixture
def machine() -> HealthMachine:
    return HealthMachine(("alpha", "beta"), max_unsafe_interval_s=10)


def all_seen(machine: HealthMachine, *names: str) -> None:
    for name in names or (EL, "alpha", "beta"):
        machine.block_seen(name, int(NOW), NOW)


def test_before_the_first_probe_it_is_unavailable(machine: HealthMachine) -> None:
    assert machine.status() is Health.UNAVAILABLE
    assert machine.facts() == [HealthFact(name, False, "not checked yet") for name in (EL, "alpha", "beta")]


def test_builders_that_were_not_probed_yet_are_not_held_against_it(machine: HealthMachine) -> None:
    all_seen(machine, EL)
    assert machine.status() is Health.OK
    machine.probe_failed("alpha", "gone")
    assert machine.status() is Health.OK
    machine.probe_failed("beta", "gone")
    assert machine.status() is Health.PARTIAL


def test_all_with_fresh_blocks_is_ok(machine: HealthMachine) -> None:
    all_seen(machine)
    assert machine.status() is Health.OK


@pytest.mark.parametrize(("age_s", "healthy"), [(0, True), (-2, True), (10, True), (10.5, False), (3600, False)])
def test_a_block_may_be_as_old_as_the_bound(machine: HealthMachine, age_s: float, healthy: bool) -> None:
    machine.block_seen(EL, int(NOW), NOW + age_s)
    assert machine.facts()[0].healthy is healthy
    assert "s old" in machine.facts()[0].reason


def test_without_the_el_it_is_unavailable_whatever_builders_do(machine: HealthMachine) -> None:
    all_seen(machine)
    machine.probe_failed(EL, "cannot connect")
    assert machine.status() is Health.UNAVAILABLE
    assert machine.facts()[0] == HealthFact(EL, False, "cannot connect")


def test_one_builder_is_enough(machine: HealthMachine) -> None:
    all_seen(machine)
    machine.probe_failed("alpha", "gone")
    assert machine.status() is Health.OK
    machine.probe_failed("beta", "gone")
    assert machine.status() is Health.PARTIAL


def test_without_builders_the_el_alone_counts() -> None:
    machine = HealthMachine((), 10)
    all_seen(machine, EL)
    assert machine.status() is Health.OK


@pytest.mark.parametrize("name", [EL, "alpha"])
def test_one_failed_call_moves_nothing_but_wants_a_probe(machine: HealthMachine, name: str) -> None:
    all_seen(machine)
    before = machine.facts()
    assert machine.produced(name, ok=False) is True
    assert machine.facts() == before
    machine.probe_failed(name, "gone")
    assert machine.produced(name, ok=False) is False, "known already"


def test_a_block_heals(machine: HealthMachine) -> None:
    for name in (EL, "beta"):
        assert machine.produced(name, ok=True) is False
    assert machine.status() is Health.OK


def test_probes_are_frequent_while_something_is_wrong(machine: HealthMachine) -> None:
    assert machine.next_probe_s(60) == RECHECK_S
    assert machine.next_probe_s(1) == 1
    all_seen(machine)
    assert machine.next_probe_s(60) == 60
