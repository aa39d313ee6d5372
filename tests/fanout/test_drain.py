"""The end: everybody leaves in turn, is served until then, and nobody new comes in."""

import json
from time import perf_counter

import pytest
import trio

from appliance.fanout.drain import GENTLE_PER_S, duration_s, send_away
from appliance.fanout.service import FanoutSettings
from appliance.fanout.session import Stage
from tests.fanout.fakes import MemoryLog, parse_frames
from tests.fanout.serving import RawClient, close_of, serving
from tests.fanout.support import Stand


@pytest.mark.parametrize(
    ("subscribers", "drain_s", "expected"),
    [(0, 5, 0), (1, 5, 1 / GENTLE_PER_S), (GENTLE_PER_S, 5, 1), (9_000, 5, 5), (9_000, 30, 30), (9_000, 0, 0)],
)
def test_few_leave_soon_and_many_take_the_time_that_is_given(subscribers: int, drain_s: float, expected: float) -> None:
    assert duration_s(subscribers, drain_s) == expected


async def test_thousands_leave_evenly(autojump_clock: trio.testing.MockClock) -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(3000)]
    begun, counts = trio.current_time(), list[int]()

    async def watch() -> None:
        while True:
            await trio.sleep(1)
            counts.append(sum(subscriber.at(Stage.CLOSING) for subscriber in subscribers))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await send_away(stand.hub, 10.0, perf_counter)
        nursery.cancel_scope.cancel()
    assert 9.9 <= trio.current_time() - begun <= 10.1
    assert all(abs(count - 300 * second) <= 10 for second, count in enumerate(counts, 1))
    assert all(close_of(parse_frames(subscriber.wire.sent)[0][-1])[0] == 1001 for subscriber in subscribers)


async def test_nobody_to_send_away_takes_no_time(autojump_clock: trio.testing.MockClock) -> None:
    await send_away(Stand().hub, 10.0, perf_counter)
    assert trio.current_time() < 0.1


async def test_who_goes_meanwhile_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(400)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_away, stand.hub, 5.0, perf_counter)
        await trio.sleep(1)
        for subscriber in [each for each in subscribers if each.at(Stage.HEAD)]:
            stand.hub.detach(subscriber.session)
    gone = [subscriber for subscriber in subscribers if subscriber.at(Stage.GONE)]
    assert 150 < len(gone) < 250
    assert all(subscriber.wire.sent == b"" for subscriber in gone)


async def test_during_the_drain_the_stream_goes_on_and_newcomers_and_health_checks_get_503(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    """The clock stands still until the one that is still there has what came meanwhile, and then is quick."""
    monkeypatch.setattr("appliance.fanout.drain.GENTLE_PER_S", 1e-9)  # two of them take as long as may be
    log = MemoryLog()
    closed = trio.Event()

    async def wait_for_close(client: RawClient) -> None:
        await client.frames(1)
        closed.set()

    async with serving(log, FanoutSettings(drain_s=4, close_timeout_s=0.5)) as server:
        idle = await server.client()  # a health check's connection from before
        clients = [await server.client() for _ in range(2)]
        for client in clients:
            await client.request()
        await server.until("subscribers", 2)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(wait_for_close, client)
            server.stopping.set()
            await closed.wait()  # the other one has two seconds left, and time stands still
            for checking in (idle, await server.client()):
                status, _, body = await checking.request("/healthz", Upgrade=None, Connection=None)
                assert (status, json.loads(body)) == (503, {"message": "stopping"})
            status, headers, _ = await (await server.client()).request()
            assert (status, headers["retry-after"]) == (503, "5")
            added = log.append(7, 0).body
        mock_clock.rate = 10.0
        first, last = sorted([await client.all_frames() for client in clients], key=len)
        assert [close_of(frame)[0] for frame in first] == [1001]
        assert last[0].payload == added
        assert close_of(last[1]) == (1001, "going away payload_id=0x0000000000000007 block_number=7 flashblock_index=0")
        await server.ended.wait()


def test_the_whole_end_has_a_bound_that_grows_with_the_drain() -> None:
    settings = FanoutSettings(drain_s=30)
    assert settings.stop_s >= settings.drain_s + settings.close_timeout_s
    assert FanoutSettings(drain_s=0).stop_s < 10
