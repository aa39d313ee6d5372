"""Payloads that an earlier process has left open: what the head says of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from structlog.testing import capture_logs

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding, Entry, Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState
from appliance.flashblocks.service import FlashblockService
from appliance.flashblocks.unfinished import MAX_UNFINISHED, Unfinished, UnfinishedPayloads
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.wire.flashblock import decode
from tests.flashblocks.fakes import FakeBuilders, FakeLog, FakeValidator, new_metrics
from tests.flashblocks.making import NUMBER, hash_of, payload_id
from tests.flashblocks.playbook import Playbook
from tests.flashblocks.test_service import STRUCTURAL, running
from tests.support.blocks import unichain_messages

BLOCK, OTHER = hash_of("block"), hash_of("other")
P = payload_id(1)
UNICHAIN = PayloadId("0x03c446f063e3735a")
UNICHAIN_NUMBER = 35535698
UNICHAIN_HASH = "0xc463a3120c35268f610d969f5608b479332ef10953af77c7a6be806195831196"
LANDED, DROPPED = PayloadState.LANDED, PayloadState.DROPPED


def recovering(*payloads: Unfinished) -> Playbook:
    play = Playbook()
    play.sequence.recover(payloads)
    return play


def head(play: Playbook, block_hash: str, number: int | None) -> list[tuple[PayloadId, PayloadState]]:
    play.sequence.head_changed(block_hash, number)
    return play.states


def test_the_head_is_its_block_it_landed() -> None:
    play = recovering(Unfinished(P, NUMBER, BLOCK))
    assert head(play, BLOCK.upper().replace("0X", "0x"), None) == [(P, LANDED)]
    assert play.sequence.statistics()["landed"] == 1
    assert play.sequence.statistics()["unfinished"] == 0


def test_the_head_is_another_block_as_high_it_was_dropped() -> None:
    assert head(recovering(Unfinished(P, NUMBER, BLOCK)), OTHER, NUMBER) == [(P, DROPPED)]


def test_the_head_is_past_it_and_it_was_dropped() -> None:
    assert head(recovering(Unfinished(P, NUMBER, BLOCK)), OTHER, NUMBER + 5) == [(P, DROPPED)]


def test_a_lower_head_or_one_of_unknown_height_leaves_it_open() -> None:
    play = recovering(Unfinished(P, NUMBER, BLOCK))
    assert head(play, OTHER, NUMBER - 1) == []
    assert head(play, hash_of("unknown"), None) == []
    assert head(play, BLOCK, NUMBER) == [(P, LANDED)]


def test_a_payload_that_names_no_block_is_dropped_by_a_head_past_it() -> None:
    play = recovering(Unfinished(P, NUMBER, None))
    assert head(play, OTHER, None) == []
    assert head(play, OTHER, NUMBER) == [(P, DROPPED)]


def test_a_head_that_came_before_the_log_was_read_counts() -> None:
    play = Playbook()
    play.sequence.head_changed(BLOCK, NUMBER)
    play.sequence.recover([Unfinished(P, NUMBER, BLOCK)])
    assert play.states == [(P, LANDED)]


def test_a_payload_that_is_shown_again_is_judged_by_what_is_shown_now() -> None:
    play = recovering(Unfinished(P, NUMBER, BLOCK))
    play.begin()
    play.send_and_log(2)
    assert play.sequence.statistics()["unfinished"] == 0
    sealed = play.seal()
    assert sealed is not None
    assert head(play, sealed.block_hash, NUMBER)[-1] == (P, LANDED)
    assert play.sequence.statistics()["landed"] == 1


def test_each_fate_is_decided_once() -> None:
    play = recovering(Unfinished(P, NUMBER, BLOCK), Unfinished(payload_id(2), NUMBER + 1, OTHER))
    assert head(play, BLOCK, NUMBER) == [(P, LANDED)]
    assert head(play, OTHER, NUMBER + 1) == [(P, LANDED), (payload_id(2), LANDED)]
    assert len(head(play, BLOCK, NUMBER + 9)) == 2


def test_only_the_newest_are_followed() -> None:
    payloads = UnfinishedPayloads()
    payloads.add(Unfinished(payload_id(number), number, None) for number in range(MAX_UNFINISHED + 5))
    assert len(payloads) == MAX_UNFINISHED
    assert [each.block_number for each, _ in payloads.judge(OTHER, 10)] == list(range(5, 11))


# --- with the log ---


@asynccontextmanager
async def plane(log: FlashLog) -> AsyncIterator[FlashblockService]:
    """The service on a real log, without builders."""
    service = FlashblockService(
        STRUCTURAL, [], sink=log, validator=FakeValidator(), metrics=new_metrics()[1], connect=FakeBuilders().connect
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def until(log: FlashLog, state: PayloadState) -> str | None:
    with trio.fail_after(60):
        while True:
            record = await log.payload(UNICHAIN)
            assert record is not None
            if record.state is state:
                return record.block_hash
            await trio.sleep(0.005)


async def show_the_real_block(log: FlashLog) -> None:
    """A process shows all of it and ends before getPayload was answered."""
    for message in unichain_messages():
        flashblock = decode(message, Encoding.TEXT)
        assert isinstance(flashblock, Flashblock)
        await log.append(flashblock, "alpha")


async def test_after_a_restart_a_block_that_became_head_has_landed_in_the_log(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log:
        await show_the_real_block(log)
    async with open_flashlog(tmp_path) as log, plane(log) as service:
        service.head_changed(UNICHAIN_HASH, None)
        assert await until(log, LANDED) == UNICHAIN_HASH
        assert await log.unfinished(10) == []


async def test_after_a_restart_a_head_past_it_drops_it_in_the_log(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log:
        await show_the_real_block(log)
        (left,) = await log.unfinished(10)
        assert (left.payload_id, left.index) == (UNICHAIN, 4)
    async with open_flashlog(tmp_path) as log, plane(log) as service:
        service.head_changed(OTHER, UNICHAIN_NUMBER + 1)
        await until(log, DROPPED)


async def test_fates_are_counted_and_said() -> None:
    async with running() as it:
        it.begin()
        it.receive(0)
        await it.log.wait_entries(1)
        sealed = it.service.seal(BuildId(1))
        assert sealed is not None
        with capture_logs() as lines:
            it.service.head_changed(sealed.block_hash, NUMBER)
            it.begin(2, payload_id(2))
            it.receive(0, payload_id(2))
            await it.log.wait_entries(2)
            it.service.head_changed(OTHER, NUMBER + 7)
        assert it.metric("landed_total") == it.metric("dropped_total") == 1
        assert [line["event"] for line in lines] == ["payload landed", "payload dropped"]


async def test_a_log_that_cannot_be_read_stops_nothing() -> None:
    log = FakeLog()
    log.failures.append(LogError("input/output error"))
    service = FlashblockService(STRUCTURAL, [], sink=log, validator=FakeValidator(), metrics=new_metrics()[1])
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            nursery.cancel_scope.cancel()
    assert lines[0]["event"] == "what became of earlier payloads stays unknown"


async def test_an_entry_that_cannot_be_read_is_followed_by_its_height() -> None:
    log = FakeLog()
    log.earlier.append(Entry(1, P, 0, NUMBER, b"from another version", Encoding.TEXT))
    service = FlashblockService(STRUCTURAL, [], sink=log, validator=FakeValidator(), metrics=new_metrics()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        service.head_changed(OTHER, NUMBER)
        await log.wait_for(lambda it: bool(it.states))
        nursery.cancel_scope.cancel()
    assert log.states == [(P, DROPPED, None)]
