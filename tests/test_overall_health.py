from appliance.domain.health import STREAM, Health, HealthFact
from appliance.overall_health import Report, overall

WELL = HealthFact("l2", healthy=True, reason="its head is fresh")
NO_NODE = HealthFact("lb nodes", healthy=False, reason="no node")


def test_a_process_of_which_nothing_is_said_is_well() -> None:
    assert overall(None, [], []) == Report(Health.OK, [])


def test_the_engine_decides_and_all_facts_are_told() -> None:
    for health in Health:
        report = overall(Report(health, [WELL]), [Report(Health.OK, [NO_NODE])], [])
        assert report == Report(health, [WELL, NO_NODE])


def test_beside_an_engine_nothing_is_a_reason_to_hand_over() -> None:
    blocks, other = Report(Health.OK, [WELL]), Report(Health.UNAVAILABLE, [NO_NODE])
    assert overall(blocks, [other], []).health is Health.PARTIAL


def test_an_engine_that_makes_no_blocks_is_not_bettered_by_others() -> None:
    assert overall(Report(Health.UNAVAILABLE, []), [Report(Health.OK, [])], []).health is Health.UNAVAILABLE


def test_a_host_without_engine_that_can_serve_nobody_is_unavailable() -> None:
    assert overall(None, [Report.of_facts([NO_NODE])], []).health is Health.UNAVAILABLE


def test_a_host_without_engine_that_still_serves_somebody_is_partly_well() -> None:
    assert overall(None, [Report.of_facts([NO_NODE]), Report(Health.OK, ())], []).health is Health.PARTIAL


def test_a_plane_that_is_down_or_a_silent_stream_is_told() -> None:
    down = HealthFact("fanout", healthy=False, reason="the plane is restarting")
    silent = HealthFact(STREAM, healthy=False, reason="no flashblock for 12 s")
    assert overall(Report(Health.OK, [WELL]), [], [down]) == Report(Health.PARTIAL, [WELL, down])
    assert overall(Report(Health.OK, [silent]), [], []).health is Health.PARTIAL
