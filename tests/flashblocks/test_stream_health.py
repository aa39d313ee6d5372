"""One fact of health: are subscribers shown flashblocks of the blocks that are built here?"""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from appliance.domain.health import STREAM, HealthFact
from appliance.domain.payloads import BuildId
from appliance.flashblocks.commands import Fenced
from appliance.flashblocks.service import FlashblockSettings
from appliance.flashblocks.stream_health import MIN_BUILDING_S, PATIENCE, QUIET_S, StreamHealth
from tests.flashblocks.making import payload_id
from tests.flashblocks.playbook import Playbook
from tests.flashblocks.test_service import running

SLOT_S = 2.0


class Slots:
    """Builds one after the other, a slot apart."""

    def __init__(self) -> None:
        self.health = StreamHealth(["alpha", "beta"])
        self.now = 100.0
        self.changes = 0

    def build(self, handed: int, *builders: str, seconds: float = SLOT_S, connected: int = 2, held: int = 0) -> None:
        since, self.now = self.now, self.now + seconds
        build = Fenced(since, builders or ("alpha",), payload_id(1), handed, "no flashblock came")
        self.changes += self.health.fenced(build, connected, self.now, held=held)

    @property
    def fact(self) -> HealthFact:
        return self.health.fact(2, self.now)

    def is_well(self) -> bool:
        return self.fact.healthy


def test_before_the_first_block_nothing_speaks_against_it() -> None:
    expected = HealthFact(
        STREAM, healthy=True, reason="no block was built here lately, 1 of 2 websockets are connected"
    )
    assert StreamHealth(["alpha", "beta"]).fact(1, 0.0) == expected


def test_three_silent_blocks_in_a_row_make_it_ill_and_the_reason_is_told() -> None:
    slots = Slots()
    slots.build(9)
    for _ in range(2):
        slots.build(0)
        assert slots.fact == HealthFact(
            STREAM, healthy=True, reason="of the last block that builders built 9 flashblocks were shown"
        )
    slots.build(0)
    reason = "of the last block that builders built nothing was shown: no flashblock came"
    assert slots.fact == HealthFact(STREAM, healthy=False, reason=reason)
    assert slots.changes == 1


def test_without_a_websocket_that_is_the_reason() -> None:
    slots = Slots()
    for _ in range(3):
        slots.build(0, connected=0)
    assert (
        slots.fact.reason == "of the last block that builders built nothing was shown: 0 of 2 websockets are connected"
    )


def test_what_waits_for_other_hosts_is_not_shown() -> None:
    slots = Slots()
    slots.build(10, held=1)
    assert slots.fact.reason == "of the last block that builders built 9 flashblocks were shown"
    for _ in range(3):
        slots.build(10, held=10)
    reason = "nothing was shown: 10 flashblocks waited for other hosts when its getPayload came"
    assert slots.fact == HealthFact(STREAM, healthy=False, reason=f"of the last block that builders built {reason}")
    for _ in range(3):
        slots.build(10)
    assert slots.is_well()


def test_it_returns_after_three_good_blocks() -> None:
    slots = Slots()
    for shown in (0, 0, 0, 9, 9):
        slots.build(shown)
        assert slots.fact.healthy is (slots.changes == 0)
    slots.build(9)
    assert slots.fact.healthy
    assert slots.changes == 2


@pytest.mark.parametrize(
    ("builders", "seconds"), [(("alpha",), MIN_BUILDING_S / 2), (("gamma",), SLOT_S), (("gamma", "delta"), SLOT_S)]
)
def test_what_could_not_have_been_shown_is_not_held_against_it(builders: tuple[str, ...], seconds: float) -> None:
    slots = Slots()
    for _ in range(20):
        slots.build(0, *builders, seconds=seconds)
    assert slots.fact.healthy
    assert slots.changes == 0


def test_it_is_forgotten_when_somebody_else_leads() -> None:
    slots = Slots()
    for _ in range(3):
        slots.build(0)
    assert not slots.is_well()
    slots.now += QUIET_S + 1
    assert slots.is_well()
    slots.build(0)
    assert slots.is_well(), "and it begins anew"


@given(st.lists(st.integers(0, 2), max_size=60))
def test_no_fewer_than_three_blocks_change_it(blocks: list[int]) -> None:
    slots, silent, shown_in_a_row = Slots(), 0, 0
    for shown in blocks:
        was_well = slots.is_well()
        slots.build(shown)
        silent += not shown
        shown_in_a_row = shown_in_a_row + 1 if shown else 0
        if was_well and not slots.is_well():
            assert silent >= PATIENCE.strikes
        if not was_well and slots.is_well():
            assert shown_in_a_row >= PATIENCE.goods
            silent = 0


# --- what the machine and its shell tell it ---


def reasons(book: Playbook) -> list[tuple[int, str]]:
    return [(fenced.handed, fenced.reason) for fenced in book.all_of(Fenced)]


def test_a_fence_tells_what_was_shown_once() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send_and_log(3)
    book.seal()
    book.seal()
    (fenced,) = book.all_of(Fenced)
    assert (fenced.since, fenced.builders, fenced.handed) == (1000.0, ("alpha", "beta"), 3)
    assert fenced.payload_id == payload_id(1)


def test_a_fence_without_a_stream_says_why() -> None:
    book = Playbook(execution=True)
    book.begin(1)
    book.seal(1)
    book.begin(2, payload=payload_id(2))
    book.send(0, payload=payload_id(2))
    book.seal(2)
    book.start(3)
    book.join(3, payload=payload_id(3))
    book.send(0, payload=payload_id(3))
    book.seal(3)
    book.begin(4, payload=payload_id(4))
    book.send(1, payload=payload_id(4))
    book.seal(4)
    assert [reason for _, reason in reasons(book)] == [
        "no flashblock came",
        "none was validated in time",
        "the execution client has not confirmed the build",
        "no flashblock came",
    ]


async def test_the_plane_tells_the_fact_the_metric_and_the_log(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as lines:
        async with running(FlashblockSettings(execution=False)) as plane:
            for build in range(1, 10):
                silent = build <= 3
                plane.begin(build, payload_id(build))
                await trio.sleep(SLOT_S)
                if not silent:
                    plane.receive(0, payload_id(build))
                plane.service.seal(BuildId(build))
                fact = plane.service.health()
                assert fact.healthy is (build < 3 or build >= 6)
                assert plane.metric("service_stream_healthy") == fact.healthy
    told = [line["event"] for line in lines if "stream is" in line["event"]]
    assert told == ["flashblock stream is unhealthy", "flashblock stream is healthy again"]


async def test_a_stream_that_other_hosts_hold_up_is_ill_after_three_blocks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(FlashblockSettings(execution=False)) as plane:
        plane.log.committed = 1
        for build in range(1, 8):
            plane.begin(build, payload_id(build))
            for index in range(2):
                plane.receive(index, payload_id(build))
            await trio.sleep(SLOT_S)
            plane.service.seal(BuildId(build))
            assert plane.service.health().healthy is (build < 4), "of the first block one flashblock was shown"
        assert "2 flashblocks waited for other hosts" in plane.service.health().reason
        plane.log.committed = None
        for build in range(8, 11):
            plane.begin(build, payload_id(build))
            plane.receive(0, payload_id(build))
            await trio.sleep(SLOT_S)
            plane.service.seal(BuildId(build))
        assert plane.service.health().healthy
