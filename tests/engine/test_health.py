"""Health: three statuses, each with its reasons, and no flapping on one failed call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.health import Health, HealthFact
from appliance.domain.hysteresis import Track
from appliance.engine.events import EL
from appliance.engine.health import BUILDER_PATIENCE, MAX_LAG, QUIET_S, RECHECK_S, HealthMachine
from appliance.wire.engine_answers import LatestBlock

NOW = 1_700_000_000
RETURN_S = BUILDER_PATIENCE.return_s


class Clinic:
    """A machine, a clock, and short words for what is seen."""

    def __init__(self, *builders: str, has_el: bool = True) -> None:
        self.machine = HealthMachine(builders, max_unsafe_interval_s=10, has_el=has_el)
        self.now = 0.0

    def seen(self, *names: str, age_s: float = 0, number: int | None = 100, timestamp: int = NOW) -> None:
        """``age_s`` is how far our clock is from NOW."""
        for name in names:
            block = LatestBlock(number, timestamp)
            self.machine.block_seen(name, block, NOW + age_s, self.now)

    def failed(self, *names: str, times: int = 1, reason: str = "gone") -> None:
        for name in names:
            for _ in range(times):
                self.machine.probe_failed(name, reason, self.now)

    def worked(self, name: str, ok: bool, times: int = 1, reason: str = "") -> bool:
        return [self.machine.produced(name, ok, reason, self.now) for _ in range(times)][-1]

    def well(self, name: str) -> bool:
        return next(fact.healthy for fact in self.machine.facts() if fact.name == name)

    def reason(self, name: str) -> str:
        return next(fact.reason for fact in self.machine.facts() if fact.name == name)

    def status(self) -> Health:
        return self.machine.status()


@pytest.fixture
def clinic() -> Clinic:
    return Clinic("alpha", "beta")


def test_before_the_first_probe_it_is_unavailable(clinic: Clinic) -> None:
    assert clinic.status() is Health.UNAVAILABLE
    assert clinic.machine.facts() == [HealthFact(name, False, "not checked yet") for name in (EL, "alpha", "beta")]


def test_builders_that_are_not_known_yet_are_not_held_against_it(clinic: Clinic) -> None:
    clinic.seen(EL)
    assert clinic.status() is Health.OK
    clinic.failed("alpha", "beta", times=2)
    assert clinic.status() is Health.OK
    clinic.failed("alpha", "beta")
    assert clinic.status() is Health.PARTIAL
    assert clinic.machine.unhealthy() == {"alpha", "beta"}


@pytest.mark.parametrize(("age_s", "well"), [(0, True), (-2, True), (10, True), (10.5, False), (3600, False)])
def test_a_block_may_be_as_old_as_the_bound(clinic: Clinic, age_s: float, well: bool) -> None:
    for _ in range(2):
        clinic.seen(EL, age_s=age_s)
    assert clinic.well(EL) is well
    assert "s old" in clinic.reason(EL)


def test_a_head_of_the_future_is_young_only_while_it_moves(clinic: Clinic) -> None:
    """Our clock was set back by an hour: it can no longer tell a chain that stands still."""
    for second in range(0, 60, 2):
        clinic.now = float(second)
        clinic.seen("alpha", "beta", EL, age_s=-3600 + second, timestamp=NOW + second)
    assert clinic.status() is Health.OK
    assert clinic.reason(EL) == "latest block is 3600 s ahead of our clock"
    for second in range(60, 80):
        clinic.now = float(second)
        clinic.seen("alpha", "beta", EL, age_s=-3600 + 58, timestamp=NOW + 58)
    assert clinic.status() is Health.UNAVAILABLE
    assert clinic.reason(EL) == "latest block is 3600 s ahead of our clock, and the same for 21 s"
    assert clinic.well("alpha")  # level with the EL: the chain stands still, not the builder
    clinic.seen(EL, age_s=-3600 + 58, timestamp=NOW + 60)
    assert clinic.status() is Health.OK


def test_a_head_of_the_future_is_young_at_first_sight_and_from_probe_to_probe(clinic: Clinic) -> None:
    clinic.seen(EL, age_s=-3600)
    assert clinic.status() is Health.OK
    for minute in range(1, 5):  # probes are a minute apart, each finds another head
        clinic.now = 60.0 * minute
        clinic.seen(EL, age_s=-3600, timestamp=NOW + 60 * minute)
        assert clinic.status() is Health.OK


@pytest.mark.parametrize("age_s", [0, -10])
def test_a_small_step_of_the_clock_changes_nothing(clinic: Clinic, age_s: float) -> None:
    for second in range(30):
        clinic.now = float(second)
        clinic.seen(EL, age_s=age_s)
    assert clinic.status() is Health.OK


def test_builders_that_are_switched_off_do_not_count(clinic: Clinic) -> None:
    clinic.seen(EL)
    clinic.failed("alpha", "beta", times=3)
    assert clinic.status() is Health.PARTIAL
    clinic.machine.use_builders(False)
    assert clinic.status() is Health.OK
    assert [fact.name for fact in clinic.machine.facts()] == [EL]
    clinic.failed(EL, times=2)
    assert clinic.status() is Health.UNAVAILABLE
    clinic.machine.use_builders(True)
    clinic.seen(EL)
    assert clinic.status() is Health.PARTIAL  # what was found meanwhile is known
    assert clinic.machine.unhealthy() == {"alpha", "beta"}


def test_calls_that_end_because_builders_were_switched_off_are_no_fault_of_theirs(clinic: Clinic) -> None:
    clinic.seen("alpha", "beta", EL)
    clinic.machine.use_builders(False)
    assert not clinic.worked("alpha", False, times=5, reason="alpha: builders are switched off")
    assert clinic.worked(EL, False)
    clinic.machine.use_builders(True)
    assert clinic.machine.unhealthy() == frozenset()


def test_without_the_el_it_is_unavailable_whatever_builders_do(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha", "beta")
    clinic.failed(EL, reason="cannot connect")
    assert clinic.status() is Health.OK, "one transient error"
    clinic.failed(EL, reason="cannot connect")
    assert clinic.status() is Health.UNAVAILABLE
    assert clinic.machine.facts()[0] == HealthFact(EL, False, "cannot connect")
    clinic.seen(EL)
    assert clinic.status() is Health.OK, "its next block is the chain's next block"


def test_one_builder_is_enough(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha", "beta")
    clinic.failed("alpha", times=5)
    assert clinic.status() is Health.OK
    assert clinic.machine.unhealthy() == {"alpha"}
    clinic.worked("beta", ok=False, times=5)
    assert clinic.status() is Health.PARTIAL


def test_without_builders_the_el_alone_counts() -> None:
    clinic = Clinic()
    clinic.seen(EL)
    assert clinic.status() is Health.OK


@pytest.mark.parametrize("name", [EL, "alpha"])
def test_one_failed_call_moves_nothing_but_wants_a_probe(clinic: Clinic, name: str) -> None:
    clinic.seen(EL, "alpha", "beta")
    before = clinic.machine.facts()
    assert clinic.worked(name, ok=False) is True
    assert clinic.machine.facts() == before
    clinic.failed(name, times=3)
    assert clinic.worked(name, ok=False) is False, "known already"


def test_failed_calls_of_the_el_alone_never_move_the_leadership(clinic: Clinic) -> None:
    clinic.seen(EL)
    clinic.worked(EL, ok=False, times=10)
    assert clinic.status() is Health.OK, "only what its probes find counts"


def test_a_block_of_the_el_heals(clinic: Clinic) -> None:
    clinic.failed(EL, times=2)
    clinic.worked(EL, ok=True)
    assert clinic.status() is Health.OK


def test_a_builder_that_answers_probes_and_makes_no_good_block_is_ill(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha")
    for _ in range(3):
        clinic.worked("alpha", ok=False, reason="l2 said INVALID")
        clinic.seen("alpha")
    assert clinic.machine.unhealthy() == {"alpha"}
    assert clinic.reason("alpha") == "l2 said INVALID"


def test_a_builder_that_makes_blocks_and_does_not_follow_is_ill(clinic: Clinic) -> None:
    clinic.seen(EL, number=100)
    for _ in range(3):
        clinic.worked("alpha", ok=True)
        clinic.seen("alpha", number=100 - MAX_LAG)
    assert clinic.well("alpha")
    for _ in range(3):
        clinic.seen("alpha", number=99 - MAX_LAG)
    assert clinic.reason("alpha") == f"head is {MAX_LAG + 1} blocks behind"


def test_a_return_takes_several_good_observations_and_some_time(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha", "beta")
    clinic.failed("alpha", "beta", times=3)
    clinic.seen("alpha")
    for _ in range(10):
        clinic.seen("alpha")
    assert clinic.status() is Health.PARTIAL, "many, but at once"
    clinic.now += RETURN_S
    clinic.seen("alpha", "beta")
    assert clinic.status() is Health.OK
    assert clinic.machine.unhealthy() == {"beta"}, "long, but one"


def test_a_bad_one_in_between_begins_the_return_anew(clinic: Clinic) -> None:
    clinic.failed("alpha", times=3)
    for _ in range(10):
        clinic.now += RETURN_S / 2
        clinic.seen("alpha")
        clinic.failed("alpha")
    assert clinic.machine.unhealthy() == {"alpha"}


def test_each_relapse_takes_longer_to_return_from_up_to_a_bound_and_steadiness_is_rewarded() -> None:
    track, now, times = Track(BUILDER_PATIENCE), 0.0, []
    for _ in range(9):
        for _ in range(3):
            track.bad("bad", now)
        began = now
        while track.ill:
            track.good("good", now)
            now += 0.5
        times.append(now - began - 0.5)
    assert times == [3, 6, 12, 24, 48, 96, 120, 120, 120]
    now += 10 * 120
    for _ in range(3):
        track.bad("bad", now)
    for seconds in (0.0, 1.5, 3.0):
        track.good("good", now + seconds)
    assert not track.ill


def test_when_the_chain_stands_still_builders_are_not_to_blame(clinic: Clinic) -> None:
    for _ in range(5):
        clinic.seen(EL, "alpha", age_s=60)
        clinic.seen("beta", age_s=60, number=80)
    assert clinic.status() is Health.UNAVAILABLE
    assert clinic.machine.unhealthy() == {"beta"}
    assert clinic.reason("beta") == "latest block is 60 s old, more than 10 s, and 20 blocks behind"


def test_when_the_el_is_silent_an_old_head_says_nothing_about_builders(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha")
    clinic.failed(EL, times=3)
    for _ in range(5):
        clinic.seen("alpha", age_s=60)
    assert clinic.well("alpha")


def test_a_follower_asks_for_no_blocks_and_its_builders_return_by_their_heads(clinic: Clinic) -> None:
    clinic.seen(EL, "alpha")
    clinic.worked("alpha", ok=False, times=3)
    for _ in range(int(QUIET_S) - 1):
        clinic.now += 1
        clinic.seen("alpha")
    assert clinic.machine.unhealthy() == {"alpha"}
    for _ in range(int(RETURN_S) + 2):
        clinic.now += 1
        clinic.seen("alpha")
    assert clinic.machine.unhealthy() == set()


def test_while_it_is_asked_for_blocks_its_head_does_not_speak_for_it(clinic: Clinic) -> None:
    clinic.worked("alpha", ok=False, times=3)
    for _ in range(100):
        clinic.now += 1
        clinic.seen("alpha")
        clinic.worked("alpha", ok=False)
    assert clinic.machine.unhealthy() == {"alpha"}


def test_probes_are_frequent_while_something_is_wrong(clinic: Clinic) -> None:
    assert clinic.machine.next_probe_s(60) == RECHECK_S
    assert clinic.machine.next_probe_s(0.1) == 0.1
    clinic.seen(EL, "alpha", "beta")
    assert clinic.machine.next_probe_s(60) == 60
    clinic.worked("alpha", ok=False)
    assert clinic.machine.next_probe_s(60) == RECHECK_S
    clinic.worked("alpha", ok=True)
    assert clinic.machine.next_probe_s(60) == 60
    clinic.failed(EL)
    assert clinic.machine.next_probe_s(60) == RECHECK_S


# --- without an EL ---


def test_the_builder_listener_is_as_well_as_its_builders() -> None:
    clinic = Clinic("alpha", "beta", has_el=False)
    assert clinic.status() is Health.UNAVAILABLE
    clinic.seen("alpha", "beta")
    assert clinic.status() is Health.OK
    clinic.failed("alpha", times=3)
    assert clinic.status() is Health.PARTIAL
    clinic.failed("beta", times=3)
    assert clinic.status() is Health.UNAVAILABLE
    assert [fact.name for fact in clinic.machine.facts()] == ["alpha", "beta"]


def test_without_an_el_a_builder_is_measured_by_the_best_one() -> None:
    clinic = Clinic("alpha", "beta", has_el=False)
    for _ in range(3):
        clinic.seen("beta", number=100)
        clinic.seen("alpha", number=50)
    assert clinic.machine.unhealthy() == {"alpha"}
    for _ in range(3):
        clinic.seen("beta", age_s=60)
    assert clinic.machine.unhealthy() == {"alpha", "beta"}, "there is nobody to be level with"


# --- promises ---

EVENTS = st.tuples(st.sampled_from(["probe", "work"]), st.booleans(), st.sampled_from([0.0, 0.2, 1.0, 5.0]))


def observe(clinic: Clinic, kind: str, good: bool) -> None:
    if kind == "work":
        clinic.worked("alpha", ok=good)
    elif good:
        clinic.seen("alpha")
    else:
        clinic.failed("alpha")


@given(st.lists(EVENTS, max_size=60))
def test_no_status_follows_from_fewer_than_three_bad_ones_and_no_return_from_fewer_than_three_good_ones(
    events: list[tuple[str, bool, float]],
) -> None:
    """Of each track for itself: what strikes one has, it keeps while the other one falls ill and returns."""
    clinic = Clinic("alpha")
    clinic.seen(EL, "alpha")
    builder = clinic.machine._builders["alpha"]
    tracks = {"probe": builder.head, "work": builder.work}
    bad_since_well, good_since_bad, last_bad = (
        dict.fromkeys(tracks, 0),
        dict.fromkeys(tracks, 0),
        dict.fromkeys(tracks, 0.0),
    )
    for kind, good, seconds in events:
        clinic.now += seconds
        before = {each: track.ill for each, track in tracks.items()}
        observe(clinic, kind, good)
        if good:  # a good probe in a quiet time is a good word about the work too
            good_since_bad = {each: count + 1 for each, count in good_since_bad.items()}
        else:
            bad_since_well[kind] += 1
            good_since_bad[kind], last_bad[kind] = 0, clinic.now
        for each, track in tracks.items():
            if track.ill and not before[each]:
                assert (each, good) == (kind, False)
                assert bad_since_well[each] >= 3
            if before[each] and not track.ill:
                assert good
                assert good_since_bad[each] >= 3
                assert clinic.now - last_bad[each] >= RETURN_S
                bad_since_well[each] = 0
        assert clinic.status() is (Health.PARTIAL if any(track.ill for track in tracks.values()) else Health.OK)


@given(st.lists(st.tuples(st.sampled_from([EL, "alpha"]), EVENTS), max_size=60))
def test_what_the_el_does_never_changes_a_builder_nor_the_other_way_round(
    events: list[tuple[str, tuple[str, bool, float]]],
) -> None:
    """Failures and blocks in any order: each side fares as if the other had not been there."""
    both, alone = Clinic("alpha"), {EL: Clinic("alpha"), "alpha": Clinic("alpha")}
    for name, (kind, good, seconds) in events:
        for clinic in (both, *alone.values()):
            clinic.now += seconds
        for clinic in (both, alone[name]):
            if kind == "work":
                clinic.worked(name, ok=good)
            elif good:
                clinic.seen(name)
            else:
                clinic.failed(name)
        for side, clinic in alone.items():
            assert both.well(side) == clinic.well(side)
            assert both.reason(side) == clinic.reason(side)
