"""At the limit of connections a subscriber keeps its place, and who says nothing gives it up."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.fanout import service
from appliance.fanout.service import FanoutSettings
from tests.fanout.fakes import MemoryLog
from tests.fanout.serving import RawClient, Serving, serving, time_at_the_end

SUBSCRIBERS = 4
SPARE = 3


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SPARE_CONNECTIONS", SPARE)


def settings() -> FanoutSettings:
    return FanoutSettings(max_subscribers=SUBSCRIBERS, ping_interval_s=10_000, pong_timeout_s=10_000)


async def subscribe(server: Serving) -> RawClient:
    client = await server.client()
    status, _, _ = await client.request()
    assert status == 101
    return client


async def until_connections(server: Serving, count: int) -> None:
    with trio.fail_after(10_000):
        while count_of(server, "connections") != count:
            await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()  # their sessions have begun


def count_of(server: Serving, name: str) -> object:
    found = server.fanout.statistics()["server"]
    assert isinstance(found, dict)
    return found[name]


async def test_a_subscriber_comes_in_and_stays_though_silent_clients_take_every_place(mock_clock: MockClock) -> None:
    log = MemoryLog()
    async with serving(log, settings()) as server, time_at_the_end(mock_clock):
        subscribers = [await subscribe(server) for _ in range(SUBSCRIBERS - 1)]
        for _ in range(SPARE + 1):
            await server.client()
        await until_connections(server, SUBSCRIBERS + SPARE)
        mock_clock.jump(4)  # later they would go by themselves

        subscribers.append(await subscribe(server))

        assert (count_of(server, "replaced"), count_of(server, "refused")) == (1, 0)
        added = log.append(1, 0)
        for subscriber in subscribers:
            assert (await subscriber.frames(1))[0].payload == added.body


async def test_subscribers_who_say_nothing_outlive_every_timeout_of_requests(mock_clock: MockClock) -> None:
    log = MemoryLog()
    async with serving(log, settings()) as server, time_at_the_end(mock_clock):
        subscribers = [await subscribe(server) for _ in range(SUBSCRIBERS)]
        silent = await server.client()
        await until_connections(server, SUBSCRIBERS + 1)
        mock_clock.jump(200)

        await until_connections(server, SUBSCRIBERS)

        assert await silent.stream.receive_some() == b""
        added = log.append(1, 0)
        for subscriber in subscribers:
            assert (await subscriber.frames(1))[0].payload == added.body


async def test_when_subscribers_take_every_place_a_newcomer_is_told_so(mock_clock: MockClock) -> None:
    async with serving(MemoryLog(), settings()) as server, time_at_the_end(mock_clock):
        for _ in range(SUBSCRIBERS):
            await subscribe(server)
        mock_clock.jump(60)

        status, headers, _ = await (await server.client()).request()

        assert (status, headers["retry-after"]) == (429, "5")
        assert count_of(server, "refused") == 0  # the door said it, in words
