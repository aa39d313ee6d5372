"""The tasks that serve everybody together."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import trio

from appliance.domain.positions import AfterBlock, CurrentPayload
from appliance.fanout.broadcast import BATCH_BYTES, BATCH_ENTRIES, Broadcast, Sweeper
from appliance.fanout.drain import send_away
from appliance.fanout.frames import Variant
from appliance.fanout.hub import HubSettings
from appliance.fanout.session import Stage
from appliance.fanout.turns import Turns
from tests.fanout.fakes import messages, parse_frames
from tests.fanout.serving import close_of
from tests.fanout.support import Stand


async def inline(work: object) -> bytes:
    await trio.lowlevel.checkpoint()
    assert callable(work)
    return bytes(work())


@asynccontextmanager
async def broadcasting(stand: Stand) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        broadcast = Broadcast(stand.hub, stand.log, stand.cache, Turns(), inline)
        nursery.start_soon(broadcast.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_entries_go_out_as_they_are_committed() -> None:
    stand = Stand()
    text, packed = stand.connect(), stand.connect(variant=Variant.BROTLI)
    async with broadcasting(stand):
        for index in range(3):
            stand.log.append(1, index)
            await trio.testing.wait_all_tasks_blocked()
    assert messages(text.wire.sent) == [entry.body for entry in stand.log.entries]
    assert len(messages(packed.wire.sent)) == 3
    assert text.wire.sends == 3


async def test_an_entry_during_a_broadcast_is_not_missed() -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(200)]
    async with broadcasting(stand):
        for index in range(20):
            stand.log.append(1, index)
            await trio.lowlevel.checkpoint()
    expected = [entry.body for entry in stand.log.entries]
    assert all(messages(subscriber.wire.sent) == expected for subscriber in subscribers)


async def test_what_has_piled_up_goes_out_in_batches_of_bounded_size() -> None:
    stand = Stand()
    subscriber = stand.connect()
    for index in range(3 * BATCH_ENTRIES):
        stand.log.append(1, index)
    for index in range(4):
        stand.log.append(2, index, body=b"x" * (BATCH_BYTES // 2 - 10))
    stand.log.append(3, 0, body=b"y" * (2 * BATCH_BYTES))
    async with broadcasting(stand):
        pass
    assert messages(subscriber.wire.sent) == [entry.body for entry in stand.log.entries]
    assert subscriber.wire.sends == 3 + 2 + 1


async def test_a_broadcast_beyond_the_logs_memory_reads_from_disk() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.log.tail = 2
    for index in range(30):
        stand.log.append(1, index)
    async with broadcasting(stand):
        pass
    assert messages(subscriber.wire.sent) == [entry.body for entry in stand.log.entries]
    assert stand.log.reads > 0


async def test_a_broadcast_to_nobody_moves_on() -> None:
    stand = Stand()
    async with broadcasting(stand):
        stand.log.append(1, 0)
    assert stand.hub.mark.position == 1
    late = stand.connect(CurrentPayload())
    stand.settle()
    assert len(messages(late.wire.sent)) == 1


async def test_what_was_delivered_can_be_waited_for() -> None:
    stand = Stand()
    subscriber = stand.connect()
    broadcast = Broadcast(stand.hub, stand.log, stand.cache, Turns(), inline)
    for index in range(3 * BATCH_ENTRIES):
        stand.log.append(1, index)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.run)
        await broadcast.wait_delivered(stand.log.head)
        assert len(messages(subscriber.wire.sent)) == 3 * BATCH_ENTRIES
        nursery.cancel_scope.cancel()


async def test_pings_go_to_each_at_its_time(autojump_clock: trio.testing.MockClock) -> None:
    stand = Stand()
    first = stand.connect()
    stand.now = 5.0
    second = stand.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Sweeper(stand.hub, 1.0, perf_counter, trio.lowlevel.checkpoint).run)
        pings = []
        for now in (14.5, 16.5, 19.5, 21.5):
            await trio.sleep_until(now)
            pings.append((len(first.wire.sent) // 2, len(second.wire.sent) // 2))
        nursery.cancel_scope.cancel()
    assert pings == [(0, 0), (1, 0), (1, 0), (1, 1)]


async def test_who_does_not_answer_is_dropped_in_time(autojump_clock: trio.testing.MockClock) -> None:
    stand = Stand()
    silent, alive = stand.connect(), stand.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Sweeper(stand.hub, 1.0, perf_counter, trio.lowlevel.checkpoint).run)
        for _ in range(50):
            await trio.sleep(1)
            alive.session.heard()
        nursery.cancel_scope.cancel()
    assert (silent.dropped(), alive.dropped()) == (True, False)


async def test_pings_wait_for_a_broadcast_but_no_longer_than_half_a_tick(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(20)]
    delivered, steps = trio.Event(), itertools.count()
    sweeper = Sweeper(stand.hub, 1.0, lambda: float(next(steps)), delivered.wait)

    def pinged() -> int:
        return sum(bool(each.wire.sent) for each in subscribers)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.sweep, 100.0)
        await trio.sleep(0.4)
        assert pinged() == 0
        delivered.set()
        await trio.testing.wait_all_tasks_blocked()
        assert pinged() == len(subscribers)
    delivered = trio.Event()
    begun = trio.current_time()
    await Sweeper(stand.hub, 1.0, lambda: float(next(steps)), delivered.wait).sweep(200.0)
    assert trio.current_time() - begun == 0.5


async def test_no_broadcast_is_under_way_before_and_after_one() -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(50)]
    steps = itertools.count()
    broadcast = Broadcast(stand.hub, stand.log, stand.cache, Turns(lambda: float(next(steps))), inline)
    stand.log.append(1, 0)
    async with trio.open_nursery() as nursery:
        await broadcast.wait_idle()
        nursery.start_soon(broadcast.run)
        while not subscribers[0].wire.sent:
            await trio.lowlevel.checkpoint()
        assert not subscribers[-1].wire.sent
        await broadcast.wait_idle()
        assert subscribers[-1].wire.sent
        nursery.cancel_scope.cancel()


async def test_thousands_who_lag_out_at_once_are_closed_in_slices() -> None:
    stand = Stand(HubSettings(max_lag=3, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    slow = [stand.connect(choose=lambda size: 0) for _ in range(50)]
    for index in range(5):
        stand.log.append(1, index)
        stand.begin()
        stand.deliver()
    assert all(subscriber.at(Stage.CATCHING_UP) for subscriber in slow)
    steps, done, seen = itertools.count(), trio.Event(), list[int]()

    async def watch() -> None:
        while not done.is_set():
            seen.append(stand.metrics.lagged_connections.value)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await Sweeper(stand.hub, 1.0, lambda: float(next(steps)), trio.lowlevel.checkpoint).sweep(now=0)
        done.set()
    assert all(subscriber.at(Stage.CLOSING) for subscriber in slow)
    assert max(after - before for before, after in itertools.pairwise(seen)) < 10


async def test_thousands_who_want_to_know_that_they_lag_are_told_in_slices() -> None:
    stand = Stand(HubSettings(max_lag=8, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    slow = [stand.connect(choose=lambda size: 0, control=True) for _ in range(50)]
    quiet = stand.connect(choose=lambda size: 0)
    for index in range(5):
        stand.log.append(1, index)
        stand.begin()
        stand.deliver()
    steps, done, seen = itertools.count(), trio.Event(), list[int]()

    def told() -> int:
        return sum(b"lagging" in each.session.notices._own for each in slow if each.session.notices is not None)

    async def watch() -> None:
        while not done.is_set():
            seen.append(told())
            await trio.lowlevel.checkpoint()

    assert len(stand.hub.half_behind()) == 50
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await Sweeper(stand.hub, 1.0, lambda: float(next(steps)), trio.lowlevel.checkpoint).sweep(now=0)
        done.set()
    assert told() == 50
    assert max(after - before for before, after in itertools.pairwise(seen)) < 10
    assert all(each.at(Stage.CATCHING_UP) for each in [*slow, quiet])


async def test_one_that_has_caught_up_in_the_meantime_is_not_told_that_it_lags() -> None:
    stand = Stand(HubSettings(max_lag=8, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    slow = stand.connect(choose=lambda size: 0, control=True)
    for index in range(5):
        stand.log.append(1, index)
        stand.begin()
        stand.deliver()
    (session,) = stand.hub.half_behind()
    stand.settle()
    stand.hub.warn_lagging(session)
    assert slow.at(Stage.HEAD)
    assert [each["control"] for each in slow.told] == ["resumed-from"]


async def test_one_that_has_caught_up_in_the_meantime_is_not_closed() -> None:
    stand = Stand(HubSettings(max_lag=3, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    slow = stand.connect(choose=lambda size: 0)
    for index in range(5):
        stand.log.append(1, index)
        stand.begin()
        stand.deliver()
    (session,) = stand.hub.beyond_bound()
    stand.settle()
    stand.hub.end_if_beyond(session, now=0)
    assert slow.at(Stage.HEAD)


async def test_everybody_is_told_that_the_host_goes_away() -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(50)]
    stand.publish((4, 2))
    await send_away(stand.hub, 0.0, perf_counter)
    for subscriber in subscribers:
        frames, _ = parse_frames(subscriber.wire.sent)
        assert close_of(frames[-1]) == (
            1001,
            "going away payload_id=0x0000000000000004 block_number=4 flashblock_index=2",
        )


async def test_those_who_wait_for_news_come_to_the_head_without_a_writer_each() -> None:
    stand = Stand()
    stand.publish((1, 0))
    travellers = [stand.connect(AfterBlock(1, 2)) for _ in range(30)]
    for index in range(1, 6):
        stand.log.append(1, index)
    async with broadcasting(stand):
        pass
    expected = [entry.body for entry in stand.log.entries][3:]
    assert all(messages(traveller.wire.sent) == expected for traveller in travellers)
    assert not stand.writers


async def test_positions_whose_entries_lost_their_place_are_passed_over() -> None:
    stand = Stand()
    subscriber = stand.connect()
    async with broadcasting(stand):
        stand.log.append(1, 0)
        stand.log.append(1, 1)
        del stand.log.entries[:]  # shown without a majority, and then another host's branch had one
        await trio.testing.wait_all_tasks_blocked()
        stand.log.append(2, 0)
    assert messages(subscriber.wire.sent) == [entry.body for entry in stand.log.entries]


async def test_text_is_sent_while_the_others_frames_are_compressed() -> None:
    stand = Stand()
    text, packed = stand.connect(), stand.connect(variant=Variant.BROTLI)
    compressing, go_on = trio.Event(), trio.Event()

    async def compress(work: Callable[[], bytes]) -> bytes:
        compressing.set()
        await go_on.wait()
        return work()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Broadcast(stand.hub, stand.log, stand.cache, Turns(), compress).run)
        entry = stand.log.append(1, 0)
        await compressing.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert messages(text.wire.sent) == [entry.body]
        assert packed.wire.sends == 0
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(messages(packed.wire.sent)) == 1
        nursery.cancel_scope.cancel()


async def test_each_variant_of_each_entry_is_made_once() -> None:
    stand, made = Stand(), 0
    for variant in Variant:
        for _ in range(3):
            stand.connect(variant=variant)

    async def count(work: Callable[[], bytes]) -> bytes:
        nonlocal made
        made += 1
        await trio.lowlevel.checkpoint()
        return work()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Broadcast(stand.hub, stand.log, stand.cache, Turns(), count).run)
        for index in range(4):
            stand.log.append(1, index)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert made == 4 * (len(Variant) - 1)
    assert all(subscriber.session.mark.position == 4 for subscriber in stand.subscribers)
