"""Filtered subscribers: each gets the matching subsequence, and stands where everybody stands."""

import itertools
import json
from time import perf_counter

import pytest
import trio

from appliance.domain.positions import AfterBlock
from appliance.fanout import filters
from appliance.fanout.contents import Contents
from appliance.fanout.filtered import Filtered
from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.pacing import Pace
from appliance.fanout.service import FanoutSettings
from appliance.fanout.session import Stage
from tests.fanout.fakes import MemoryLog, messages
from tests.fanout.oracle import passes
from tests.fanout.serving import close_of, serving
from tests.fanout.support import Stand
from tests.fanout.test_broadcast import broadcasting, inline

ALICE, BOB, NOBODY = b"\1" * 20, b"\2" * 20, b"\3" * 20


def touching(*addresses: bytes, padding: int = 0) -> bytes:
    """A flashblock whose transactions call these addresses."""
    calls = ["0x" + (b"\xee" + address).hex() for address in addresses]
    return json.dumps({"diff": {"transactions": calls}, "padding": "x" * padding}).encode()


def addresses(*wanted: bytes) -> str:
    return ",".join("0x" + address.hex() for address in wanted)


async def test_each_gets_its_part_in_its_encoding_and_all_move_on() -> None:
    stand = Stand()
    alice = stand.connect(wanted=Filter([ALICE]))
    both = stand.connect(wanted=Filter([ALICE, BOB]), variant=Variant.BROTLI)
    nobody = stand.connect(wanted=Filter([NOBODY]))
    everybody = stand.connect()
    for number, touched in enumerate([(ALICE,), (), (BOB,), (ALICE, BOB)]):
        stand.log.append(1, number, body=touching(*touched))
    async with broadcasting(stand):
        pass
    bodies = [entry.body for entry in stand.log.entries]
    assert everybody.received == bodies
    assert alice.received == [bodies[0], bodies[3]]
    assert len(both.received) == 3
    assert nobody.received == []
    assert alice.wire.sends == 1  # a batch is one send also for those who get a part of it
    for subscriber in (alice, both, nobody, everybody):
        assert subscriber.session.mark is stand.hub.mark
        assert subscriber.at(Stage.HEAD)
    assert stand.hub.statistics()["at_head"] == {"text": 3, "brotli": 1, "deflate": 0}
    assert stand.hub.statistics()["filters"] == 3
    assert stand.metrics.sent_messages.value == 4 + 2 + 3


async def test_one_that_leaves_the_head_during_the_judging_is_served_from_the_log_once() -> None:
    stand = Stand()
    slow, fast = stand.connect(wanted=Filter([ALICE])), stand.connect(wanted=Filter([ALICE]))
    body = stand.log.append(1, 0, body=touching(ALICE)).body
    before, batch = stand.hub.mark, stand.cache.get_all(stand.log.entries)
    stand.hub.begin(batch)
    slow.wire.choose = lambda size: 0
    slow.session.queue_pong(b"")
    stand.hub.write_control(slow.session)
    assert slow.at(Stage.CATCHING_UP)
    stand._begin_filtered(batch, before)
    while stand.rounds:
        stand.deliver()
    assert (slow.received, fast.received) == ([], [body])
    stand.settle()
    assert (slow.received, fast.received) == ([body], [body])


async def test_thousands_of_different_filters_cost_the_loop_nothing_but_slices() -> None:
    stand = Stand()
    subscribers = [stand.connect(wanted=Filter([number.to_bytes(20, "big")])) for number in range(1, 3001)]
    wanted = (77).to_bytes(20, "big")
    stand.log.append(1, 0, body=touching(*(b"\xaa" * 20 for _ in range(2000)), wanted))
    batch = stand.cache.get_all(stand.log.entries)
    stand.hub.begin(batch)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        ticks = itertools.count()  # a slice is over at once, whatever the machine
        parts = await Filtered(stand.hub, Pace(lambda: float(next(ticks))), inline).plan(batch)
        nursery.cancel_scope.cancel()
    assert {numbers: len(members) for (_, numbers), members in parts.items()} == {(): 2999, (0,): 1}
    assert parts[Variant.TEXT, (0,)] == [subscribers[76].session]
    assert turns > 3000


async def test_passing_over_is_done_in_slices_and_only_for_those_still_there() -> None:
    stand = Stand()
    subscribers = [stand.connect(wanted=Filter([NOBODY])) for _ in range(2500)]
    gone = subscribers[3].session
    stand.log.append(1, 0, body=touching(ALICE))
    before, batch = stand.hub.mark, stand.cache.get_all(stand.log.entries)
    stand.hub.begin(batch)
    stand.hub.lost(gone)
    pace = Pace(perf_counter)
    await Filtered(stand.hub, pace, inline).pass_over([each.session for each in subscribers], before)
    assert gone.mark is before
    assert all(each.session.mark is stand.hub.mark for each in subscribers if each.session is not gone)


async def test_a_filter_over_a_real_socket_with_resume_and_what_comes() -> None:
    log = MemoryLog()
    for number in range(60):
        log.append(1, number, body=touching(*([ALICE] if number % 3 == 0 else [BOB]), padding=number * 50))
    mine = [entry.body for entry in log.entries if passes(entry.body, Filter([ALICE]))]
    async with serving(log) as server:
        target = f"/ws/filter?addresses={addresses(ALICE)}"
        for query, first in (
            ("", 0),
            ("&block_number=1&flashblock_index=29", 10),
            ("&block_number=1&flashblock_index=30", 11),
        ):
            client = await server.client()
            assert (await client.request(target + query))[0] == 101
            assert [frame.payload for frame in await client.frames(20 - first)] == mine[first:]
        await server.until("catching_up", 0)
        log.append(2, 0, body=touching(BOB))
        last = log.append(2, 1, body=touching(ALICE)).body
        assert (await client.frames(10))[-1].payload == last


async def test_a_large_flashblock_is_judged_for_one_that_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.fanout.examined.QUICK_S", 0.0)
    log = MemoryLog()
    bodies = [touching(*([ALICE] * 40), BOB, padding=100_000), touching(*([ALICE] * 40), padding=100_000)]
    for number, body in enumerate(bodies):
        log.append(1, number, body=body)
    async with serving(log) as server:
        client = await server.client()
        many = addresses(BOB, *(number.to_bytes(20, "big") for number in range(4, 200)))
        await client.request(f"/ws?block_number=1&addresses={many}")
        await server.until("catching_up", 0)
        assert [frame.payload for frame in await client.frames(1)] == bodies[:1]


async def test_one_that_nothing_is_for_is_told_the_place_that_was_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.fanout.service.LAST_BROADCAST_S", 60)  # a machine may stand still for a second
    log = MemoryLog()
    async with serving(log) as server:
        client = await server.client()
        await client.request(f"/ws/filter?addresses={addresses(NOBODY)}")
        await server.until("subscribers", 1)
        for index in range(3):
            log.append(9, index, body=touching(ALICE))
        server.stopping.set()
        (close,) = await client.all_frames()
        code, reason = close_of(close)
        assert code == 1001
        assert reason.endswith("block_number=9 flashblock_index=2")


async def test_passing_over_is_no_lag() -> None:
    log = MemoryLog()
    async with serving(log, FanoutSettings(max_lag=2)) as server:
        client = await server.client()
        await client.request(f"/ws?addresses={addresses(ALICE)}")
        await server.until("subscribers", 1)
        for index in range(20):
            position = log.append(9, index, body=touching(BOB)).position
            await server.until("position", position)
        last = log.append(9, 20, body=touching(ALICE)).body
        assert (await client.frames(1))[0].payload == last
        assert server.metrics.lagged_connections.value == 0


@pytest.mark.parametrize("name", ["addresses", "topics"])
async def test_a_bad_item_is_400_and_named(name: str) -> None:
    async with serving(MemoryLog()) as server:
        client = await server.client()
        status, _, body = await client.request(f"/ws/filter?{name}=0x12,nonsense")
        assert status == 400
        assert json.loads(body)["message"].startswith(f"{name}: expected 0x and ")


async def test_a_filter_that_has_no_room_is_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_ITEMS_IN_ALL", 1)
    async with serving(MemoryLog()) as server:
        client = await server.client()
        assert (await client.request(f"/ws?addresses={addresses(ALICE)}"))[0] == 101
        await server.until("filters", 1)
        other = await server.client()
        status, headers, _ = await other.request(f"/ws?addresses={addresses(BOB)}")
        assert (status, headers["retry-after"]) == (429, "5")
        await client.stream.aclose()
        await server.until("filters", 0)
        again = await server.client()
        assert (await again.request(f"/ws?addresses={addresses(BOB)}"))[0] == 101


def test_a_filtered_subscriber_that_lags_keeps_its_place_between_two_that_pass() -> None:
    stand = Stand()
    slow = stand.connect(AfterBlock(0, 0), wanted=Filter([ALICE]), choose=lambda size: 0)
    for index, touched in enumerate([ALICE, BOB, BOB, ALICE]):
        stand.log.append(1, index, body=touching(touched))
    while stand.begin() or stand.delivering:
        stand.deliver()
    assert slow.received == []
    stand.settle()
    assert messages(slow.wire.sent) == [stand.log.entries[0].body, stand.log.entries[3].body]
    assert slow.session.resume_from.endswith("block_number=1 flashblock_index=3")


async def test_hundreds_of_filters_that_look_for_the_same_many_addresses_are_matched_in_steps() -> None:
    """780 subscribers of one address with 256 addresses each, all of them in every flashblock: 10 ms in one go."""
    shared = [number.to_bytes(20, "big") for number in range(1, 201)]
    stand = Stand()
    wanted = [Filter([*shared, (1000 + number).to_bytes(20, "big")]) for number in range(50)]
    for each in wanted:
        stand.hub.filters.add(each)
    found: set[Filter] = set()
    contents = Contents(frozenset(shared), frozenset(), ())
    begun = [len(found) for _ in stand.hub.filters.matching(contents, shared, found)]
    assert len(begun) == 2 * len(shared)  # each step is one address
    assert found == set(wanted)
