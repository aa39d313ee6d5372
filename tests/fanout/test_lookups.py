"""One question to the log for many who ask it."""

import pytest
import trio

from appliance.domain.errors import PrunedError
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Located
from appliance.fanout.lookups import CONCURRENT_LOOKUPS, REMEMBERED, Lookups
from tests.fanout.fakes import MemoryLog, payload_id


def filled() -> MemoryLog:
    log = MemoryLog()
    for index in range(5):
        log.append(1, index)
    return log


async def test_thousands_at_one_place_are_few_lookups() -> None:
    log, found = filled(), list[Located]()
    lookups = Lookups(log)

    async def ask() -> None:
        found.append(await lookups.locate(AfterBlock(1, 2)))

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(ask)
    assert found == [Located(3)] * 1000
    assert log.lookups <= CONCURRENT_LOOKUPS


async def test_each_place_is_looked_up() -> None:
    log = filled()
    lookups = Lookups(log)
    assert [await lookups.locate(AfterBlock(1, index)) for index in range(5)] == [
        Located(position) for position in range(1, 6)
    ]
    assert await lookups.locate(AfterPayload(payload_id(1), 0)) == Located(1)


async def test_an_answer_is_forgotten_when_the_log_goes_on() -> None:
    log = filled()
    lookups = Lookups(log)
    assert await lookups.locate(CurrentPayload()) == Located(0)
    assert await lookups.locate(AfterBlock(2, 0)) == Located(5, (2, 0))
    log.append(2, 0)
    assert await lookups.locate(CurrentPayload()) == Located(5)
    assert await lookups.locate(AfterBlock(2, 0)) == Located(6)


async def test_an_answer_during_which_the_log_went_on_is_not_kept() -> None:
    log = filled()
    lookups = Lookups(log)
    plain_locate = log.locate

    async def overtaken(resume: AfterBlock) -> Located:
        found = await plain_locate(resume)
        log.append(2, 0)
        return found

    log.locate = overtaken  # type: ignore[method-assign, assignment]  # the head moves meanwhile
    assert await lookups.locate(CurrentPayload()) == Located(0)
    log.locate = plain_locate  # type: ignore[method-assign]
    assert await lookups.locate(CurrentPayload()) == Located(5)


async def test_what_is_remembered_is_bounded() -> None:
    log = filled()
    lookups = Lookups(log)
    for index in range(REMEMBERED + 10):
        await lookups.locate(AfterBlock(9, index))
    assert len(lookups._known) <= REMEMBERED


async def test_a_place_that_is_gone_is_asked_again() -> None:
    log = filled()
    lookups = Lookups(log)
    for _ in range(2):
        with pytest.raises(PrunedError):
            await lookups.locate(AfterPayload(payload_id(9), 0))
    assert log.lookups == 2


async def test_an_entry_that_is_named_stays_where_it_is_while_the_log_goes_on() -> None:
    log = filled()
    lookups = Lookups(log)
    place = AfterPayload(payload_id(1), 2)
    assert await lookups.locate(place) == Located(3)
    for index in range(5, 8):
        log.append(1, index)
        assert lookups.recall(place) == Located(3)
        assert await lookups.locate(place) == Located(3)
    assert log.lookups == 1


async def test_what_names_no_entry_is_asked_again_when_the_log_has_moved() -> None:
    log = filled()
    lookups = Lookups(log)
    for place in (AfterPayload(payload_id(1), -1), AfterPayload(payload_id(1), 9), AfterBlock(1, 2), CurrentPayload()):
        await lookups.locate(place)
        assert lookups.recall(place) is not None
        log.append(1, len(log.entries))
        assert lookups.recall(place) is None


async def test_an_entry_that_lost_its_place_is_looked_for() -> None:
    log = filled()
    lookups = Lookups(log)
    place = AfterPayload(payload_id(1), 4)
    assert await lookups.locate(place) == Located(5)
    del log.entries[4]  # another host's branch took it
    log.append(1, 4, body=b"another")
    assert lookups.recall(place) is None
    assert await lookups.locate(place) == Located(6)


async def test_an_entry_that_is_in_memory_no_more_is_asked_for() -> None:
    log = filled()
    lookups = Lookups(log)
    place = AfterPayload(payload_id(1), 0)
    await lookups.locate(place)
    log.tail = 2
    log.append(1, 5)
    assert lookups.recall(place) is None


async def test_no_more_places_of_entries_are_kept_than_of_others() -> None:
    log = MemoryLog()
    for index in range(REMEMBERED + 10):
        log.append(1, index)
    lookups = Lookups(log)
    for index in range(REMEMBERED + 10):
        await lookups.locate(AfterPayload(payload_id(1), index))
    assert len(lookups._exact) <= REMEMBERED
    log.append(2, 0)
    assert lookups.recall(AfterPayload(payload_id(1), REMEMBERED + 9)) is not None
    assert lookups.recall(AfterPayload(payload_id(1), 0)) is None
