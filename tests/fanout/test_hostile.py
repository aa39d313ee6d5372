"""Subscribers that mean no good, on real sockets: what the others get, in which order, and how soon.

Each scenario runs twice, without the hostile ones and with them, and compares the median time from a flashblock's
commit until all the others have it. Everybody is in one process and on one loop, so the hostile clients' own work
is in it too: the ratio is generous. What is exact: each of the others gets everything, once and in order.
"""

import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median
from time import perf_counter

import pytest
import trio

from appliance.fanout.connect_rate import BURST_OF_PLACES, LEAST_PLACES
from tests.fanout.fakes import MemoryLog
from tests.fanout.serving import KEY, QUIET, RawClient, Serving, close_of, masked, serving, time_at_the_end

OTHERS = 15
FLASHBLOCKS = 40
BODY = b'{"x":"' + b"y" * 20_000 + b'"}'
RATIO = 20
NOISE_S = 0.05  # what a busy machine adds

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
).encode()

Attack = Callable[[Serving], Awaitable[None]]


@asynccontextmanager
async def host(**settings: object) -> AsyncIterator[tuple[Serving, MemoryLog]]:
    log = MemoryLog()
    chosen = replace(QUIET, close_timeout_s=1.0, **settings)  # type: ignore[arg-type]  # the test names them
    async with serving(log, chosen) as server:
        yield server, log


async def subscribe(server: Serving, *, receive_buffer: int | None = None) -> RawClient:
    client = await server.client(receive_buffer=receive_buffer)
    assert (await client.request())[0] == 101
    return client


async def deliver(log: MemoryLog, others: list[RawClient]) -> float:
    """Commit flashblocks one after the other; the median time until all have one, in seconds."""
    times = []
    for number in range(FLASHBLOCKS):
        begun, before = perf_counter(), len(log.entries)
        log.append(1 + number, 0, body=b"%d%s" % (number, BODY))
        for client in others:
            while len(client.received) < (before + 1) * len(BODY):
                client.received += await client._read(1 << 20)
        times.append(perf_counter() - begun)
    return median(times)


async def compare(server: Serving, log: MemoryLog, attack: Attack) -> None:
    """Deliver without the attack, then with it; check what the others have."""
    others = [await subscribe(server) for _ in range(OTHERS)]
    await server.until("subscribers", OTHERS)
    calm = await deliver(log, others)
    assert server.metrics.catch_ups.value == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attack, server)
        await trio.testing.wait_all_tasks_blocked(0.001)
        attacked = await deliver(log, others)
        nursery.cancel_scope.cancel()
    print(f"median delivery {calm * 1000:.1f} ms, under attack {attacked * 1000:.1f} ms")
    assert attacked <= RATIO * calm + NOISE_S
    expected = [entry.body for entry in log.entries]
    for client in others:
        assert [frame.payload for frame in await client.frames(2 * FLASHBLOCKS)] == expected


async def read_nothing(server: Serving) -> None:
    for _ in range(5):
        await subscribe(server, receive_buffer=4096)
    await trio.sleep_forever()


async def read_a_byte_now_and_then(server: Serving) -> None:
    clients = [await subscribe(server, receive_buffer=4096) for _ in range(5)]
    while True:
        for client in clients:
            await client._read(1)
        await trio.sleep(0.01)


async def send_garbage(server: Serving) -> None:
    rng = random.Random(1)
    while True:
        client = await subscribe(server)
        await client.stream.send_all(rng.randbytes(3000))
        await trio.sleep(0.002)
        await client.stream.aclose()


async def send_huge_frames(server: Serving) -> None:
    while True:
        client = await subscribe(server)
        try:
            await client.stream.send_all(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
            while True:
                await client.stream.send_all(bytes(60_000))
                await trio.sleep(0.001)
        except trio.BrokenResourceError:
            await trio.sleep(0.005)


async def flood_with_pings(server: Serving) -> None:
    while True:
        client = await subscribe(server)
        try:
            while True:
                await client.stream.send_all(masked(0x9, b"x" * 100) * 50)
                await trio.sleep(0.001)
        except trio.BrokenResourceError:
            await trio.sleep(0.005)


async def half_handshakes(server: Serving) -> None:
    clients = [await server.client() for _ in range(60)]
    with contextlib.suppress(trio.BrokenResourceError):  # who takes five seconds for it is closed
        for end in range(1, len(HANDSHAKE) - 1):
            for client in clients:
                await client.stream.send_all(HANDSHAKE[end - 1 : end])
            await trio.sleep(0.001)
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "attack",
    [read_nothing, read_a_byte_now_and_then, send_garbage, send_huge_frames, flood_with_pings, half_handshakes],
    ids=lambda attack: attack.__name__,
)
async def test_the_others_have_everything_in_order_and_as_soon_as_before(attack: Attack) -> None:
    async with host() as (server, log):
        await compare(server, log, attack)


async def test_one_that_reads_nothing_is_closed_when_it_is_too_far_behind_and_costs_two_frames_at_most() -> None:
    async with host(max_lag=20) as (server, log):
        stuck = await subscribe(server, receive_buffer=4096)
        await server.until("subscribers", 1)
        for number in range(300):
            log.append(1 + number, 0, body=BODY)
            await trio.lowlevel.checkpoint()
        await server.until("subscribers", 0)
        assert server.metrics.lagged_connections.value == 1
        assert server.metrics.sent_messages.value < 300
        await stuck.stream.aclose()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff" * 200, 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0" + bytes(20_000), 1009),
        (b"".join(masked(0x9, b"x" * 100) for _ in range(700)), 1008),
    ],
    ids=["garbage", "a huge frame", "a flood of pings"],
)
async def test_who_breaks_the_rules_is_told_which_and_is_gone(
    data: bytes, code: int, mock_clock: trio.testing.MockClock
) -> None:
    """What is a flood is a matter of time, so that stands still until it is told."""
    async with host() as (server, _), time_at_the_end(mock_clock):
        client = await subscribe(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_while_it_is_read, client, data)
            await client.close_frame()
            mock_clock.rate = 10.0
            frames = await client.all_frames()
        assert close_of(frames[-1])[0] == code
        assert {frame.opcode for frame in frames[:-1]} <= {0xA}
        await server.until("subscribers", 0)


async def _send_while_it_is_read(client: RawClient, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # it was closed on the way
        await client.stream.send_all(data)


def _connect_from(address: str, port: int) -> socket.socket:
    """A socket that is connecting from another address of this machine."""
    sock = socket.socket()
    sock.bind((address, 0))
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    return sock


async def test_a_storm_from_one_address_is_refused_before_its_handshakes_and_others_come_in() -> None:
    places = 20
    async with host(max_per_ip=places) as (server, log):
        other = await subscribe(server)  # from 127.0.0.1
        asked, answers = 0, list[bytes]()

        async def storm(times: int) -> None:
            nonlocal asked
            for _ in range(times):
                sock = trio.socket.from_stdlib_socket(_connect_from("127.0.0.9", server.port))
                with sock:
                    await trio.lowlevel.wait_writable(sock)
                    asked += 1
                    await sock.send(HANDSHAKE)
                    answers.append((await sock.recv(4096))[:12])

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(storm, 100)
            body = log.append(1, 0).body
            assert (await other.frames(1))[0].payload == body
            late = await subscribe(server)
            assert (await late.frames(1))[0].payload == body
        statistics = server.fanout.statistics()["server"]
        assert isinstance(statistics, dict)
        served = answers.count(b"HTTP/1.1 101")
        assert asked == len(answers) == 1000
        assert (
            1 <= served <= statistics["requests"] <= 3 * BURST_OF_PLACES * LEAST_PLACES
        )  # and what was let in meanwhile
        assert answers.count(b"HTTP/1.1 429") == 1000 - served
        assert statistics["refused"] >= 1000 - statistics["requests"]
        assert server.metrics.rate_limited_requests.value >= statistics["refused"]


async def test_a_trusted_proxy_may_connect_as_often_as_its_clients_do() -> None:
    async with host(max_per_ip=1, proxies=("127.0.0.1",)) as (server, _):
        for number in range(30):
            client = await server.client()
            status, _, _ = await client.request(**{"X-Forwarded-For": f"10.0.0.{number}"})
            assert status == 101
