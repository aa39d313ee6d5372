"""The whole plane over real sockets."""

import json
import socket
import struct
from pathlib import Path

import brotli
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from appliance.domain.flashblocks import Encoding
from appliance.domain.positions import Located, Resume
from appliance.fanout.service import FanoutSettings
from tests.fanout.fakes import MemoryLog, payload_id
from tests.fanout.serving import Serving, close_of, masked, serving, time_at_the_end

CAPTURE = Path(__file__).parents[1] / "data" / "flashblocks" / "unichain-sepolia-35535698.jsonl"
BLOCK = 35535698


def captured() -> MemoryLog:
    """A log that holds a real block."""
    log = MemoryLog()
    for index, line in enumerate(CAPTURE.read_bytes().splitlines()):
        log.append(BLOCK, index, body=line)
    return log


def bodies(log: MemoryLog, *, after: int = 0) -> list[bytes]:
    return [entry.body for entry in log.entries if entry.position > after]


async def receive(ws: WebSocketConnection, count: int) -> list[bytes]:
    with trio.fail_after(60):
        found = [await ws.get_message() for _ in range(count)]
    return [item.encode() if isinstance(item, str) else item for item in found]


async def rejected(server: Serving, target: str) -> tuple[int, dict[str, object], dict[str, str]]:
    # trio-websocket leaves its socket open when it is refused, so a bare client asks.
    client = await server.client()
    status, headers, body = await client.request(target)
    await client.stream.aclose()
    assert headers["content-type"] == "application/json"
    return status, json.loads(body), headers


async def test_a_subscriber_gets_the_current_payload_byte_for_byte_and_then_what_comes() -> None:
    log = captured()
    async with serving(log) as server, server.subscriber() as ws:
        assert await receive(ws, 5) == bodies(log)
        added = log.append(BLOCK + 1, 0)
        assert await receive(ws, 1) == [added.body]


async def test_the_root_is_the_stream_too() -> None:
    log = captured()
    async with serving(log) as server, server.subscriber("/") as ws:
        assert await receive(ws, 5) == bodies(log)


async def test_brotli_comes_in_binary_messages() -> None:
    log = captured()
    async with serving(log) as server, server.subscriber("/ws?encoding=brotli") as ws:
        with trio.fail_after(60):
            message = await ws.get_message()
        assert isinstance(message, bytes)
        assert brotli.decompress(message) == log.entries[0].body
        rest = [brotli.decompress(item) for item in await receive(ws, 4)]
        assert rest == bodies(log, after=1)
        added = log.append(BLOCK + 1, 0)
        assert [brotli.decompress(item) for item in await receive(ws, 1)] == [added.body]


async def test_what_came_compressed_is_passed_on_compressed_or_as_text() -> None:
    log = MemoryLog()
    text = b'{"some":"flashblock"}'
    packed = brotli.compress(text)
    log.append(1, 0, body=packed, encoding=Encoding.BROTLI)
    async with serving(log) as server:
        async with server.subscriber("/ws?encoding=brotli") as ws:
            assert await receive(ws, 1) == [packed]
        async with server.subscriber() as ws:
            assert await receive(ws, 1) == [text]


async def test_resuming_by_block_number_and_index() -> None:
    log = captured()
    async with serving(log) as server:
        target = f"/ws?block_number={BLOCK}&flashblock_index=1"
        async with server.subscriber(target) as ws:
            assert await receive(ws, 3) == bodies(log, after=2)


async def test_resuming_by_payload_id() -> None:
    log = captured()
    log.append(BLOCK + 1, 0)
    async with serving(log) as server:
        target = f"/ws?payload_id={payload_id(BLOCK)}&flashblock_index=3"
        async with server.subscriber(target) as ws:
            assert await receive(ws, 2) == bodies(log, after=4)


async def test_resuming_at_a_host_that_is_behind() -> None:
    log = captured()
    async with serving(log) as server:
        target = f"/ws?block_number={BLOCK + 1}&flashblock_index=0"
        async with server.subscriber(target) as ws:
            await server.until("waiting", 1)
            log.append(BLOCK + 1, 0)
            new = log.append(BLOCK + 1, 1)
            assert await receive(ws, 1) == [new.body]


async def test_a_place_that_is_gone_is_410_with_the_oldest_one() -> None:
    log = captured()
    log.append(BLOCK + 1, 0)
    log.prune(5)
    async with serving(log) as server:
        status, answer, _ = await rejected(server, f"/ws?block_number={BLOCK}&flashblock_index=2")
        assert status == 410
        assert answer["oldest"] == {"block_number": BLOCK + 1, "flashblock_index": 0}
        status, _, _ = await rejected(server, f"/ws?payload_id={payload_id(77)}")
        assert status == 410


async def test_a_block_that_is_built_again_comes_whole_to_those_who_saw_it_once() -> None:
    log = MemoryLog()
    for payload, flashblocks in ((1, 3), (2, 5)):
        for index in range(flashblocks):
            log.append(100, index, payload=payload, body=b"%d/%d" % (payload, index))
    async with serving(log) as server:
        async with server.subscriber("/ws?block_number=100&flashblock_index=2") as ws:
            assert await receive(ws, 5) == bodies(log, after=3)
        async with server.subscriber(f"/ws?payload_id={payload_id(2)}&flashblock_index=2") as ws:
            assert await receive(ws, 2) == bodies(log, after=6)


async def test_an_unknown_path_is_404() -> None:
    async with serving(MemoryLog()) as server:
        status, answer, _ = await rejected(server, "/nothing")
        assert (status, answer) == (404, {"message": "no such stream: connect to /ws"})


async def test_a_bad_position_is_400_with_the_reason() -> None:
    async with serving(MemoryLog()) as server:
        status, answer, _ = await rejected(server, "/ws?block_number=abc")
        assert status == 400
        assert str(answer["message"]).startswith("block_number must be a whole number")


async def test_one_address_may_have_so_many_and_no_more() -> None:
    async with serving(MemoryLog(), FanoutSettings(max_per_ip=1)) as server:
        async with server.subscriber():
            status, answer, headers = await rejected(server, "/ws")
            assert (status, headers["retry-after"]) == (429, "5")
            assert answer == {"message": "too many subscribers from this address"}
            assert server.metrics.rate_limited_requests.value == 1
        await server.until("subscribers", 0)
        async with server.subscriber():
            pass


async def test_a_full_instance_is_429() -> None:
    settings = FanoutSettings(max_subscribers=1)
    async with serving(MemoryLog(), settings) as server, server.subscriber():
        status, answer, headers = await rejected(server, "/ws")
        assert (status, headers["retry-after"]) == (429, "5")
        assert answer == {"message": "this host has no room for more subscribers"}


async def test_a_connection_that_asks_nothing_is_soon_closed(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    async with serving(MemoryLog()) as server:
        silent = await server.client()
        begun = trio.current_time()
        assert await silent.stream.receive_some() == b""
        assert trio.current_time() - begun <= 7


async def test_behind_a_trusted_proxy_the_clients_are_told_apart() -> None:
    settings = FanoutSettings(max_per_ip=1, proxies=("127.0.0.0/8",), ip_header="X-Real-IP")
    async with serving(MemoryLog(), settings) as server:
        answers = []
        for address in ["1.2.3.4", "5.6.7.8", "6.6.6.6, 1.2.3.4"]:
            client = await server.client()
            answers.append((await client.request(X_Real_IP=address))[0])
        assert answers == [101, 101, 429]
        assert server.fanout.statistics()["addresses"] == 2


async def test_the_header_of_a_stranger_is_not_believed() -> None:
    async with serving(MemoryLog(), FanoutSettings(max_per_ip=1)) as server:
        first, second = await server.client(), await server.client()
        assert (await first.request(X_Forwarded_For="1.2.3.4"))[0] == 101
        assert (await second.request(X_Forwarded_For="5.6.7.8"))[0] == 429


async def test_health_is_on_the_same_port() -> None:
    async with serving(MemoryLog()) as server:
        client = await server.client()
        assert (await client.request("/healthz", Upgrade=None, Connection=None))[::2] == (200, b"ok\n")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": None, "Connection": None}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Key": None}, 400),
    ],
)
async def test_half_a_handshake_is_answered_in_http(headers: dict[str, str | None], status: int) -> None:
    async with serving(MemoryLog()) as server:
        client = await server.client()
        answered, fields, body = await client.request(**headers)
        assert answered == status
        assert json.loads(body)["message"]
        assert fields.get("sec-websocket-version", "13") == "13"
        assert server.fanout.statistics()["admitted"] == 0


async def test_clients_that_go_away_during_the_handshake_take_no_place() -> None:
    async with serving(MemoryLog()) as server:
        for text in [b"", b"GET /ws HT", b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n", b"\x16\x03\x01garbage"]:
            client = await server.client()
            await client.stream.send_all(text)
            await client.stream.aclose()
        async with server.subscriber():
            await server.until("subscribers", 1)
        await server.until("subscribers", 0)
        assert server.fanout.statistics()["admitted"] == 0


async def test_our_pings_are_answered_and_keep_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    settings = FanoutSettings(ping_interval_s=10, pong_timeout_s=12)
    async with serving(MemoryLog(), settings) as server, server.subscriber() as ws:
        await trio.sleep(40)
        assert server.metrics.client_pong_disconnects.value == 0
        await ws.ping(b"still there")


async def test_one_that_answers_no_ping_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    settings = FanoutSettings(ping_interval_s=10, pong_timeout_s=15)
    async with serving(MemoryLog(), settings) as server:
        client = await server.client()
        await client.request()
        begun = trio.current_time()
        frames = await client.all_frames()
        assert 25 <= trio.current_time() - begun <= 27
        assert [frame.opcode for frame in frames] == [0x9, 0x9]
        assert server.metrics.client_pong_disconnects.value == 1
        await server.until("subscribers", 0)


async def test_pings_of_a_client_are_answered() -> None:
    async with serving(MemoryLog()) as server, server.subscriber() as ws:
        with trio.fail_after(60):
            await ws.ping(b"one")
            await ws.ping(b"two")


async def test_a_ping_in_the_middle_of_a_large_frame_is_answered_after_it() -> None:
    log = MemoryLog()
    async with serving(log) as server:
        client = await server.client(receive_buffer=65_536)
        await client.request()
        entry = log.append(1, 0, body=b"x" * 3_000_000)
        await server.until("catching_up", 1)
        await client.stream.send_all(masked(0x9, b"hello"))
        frames = await client.frames(2)
        assert [frame.payload for frame in frames] == [entry.body, b"hello"]
        assert [frame.opcode for frame in frames] == [0x1, 0xA]


async def test_messages_of_a_client_are_ignored() -> None:
    log = captured()
    async with serving(log) as server, server.subscriber() as ws:
        await ws.send_message("hello")
        await ws.send_message(b"\0" * 100)
        assert await receive(ws, 5) == bodies(log)
        with trio.fail_after(60):
            await ws.ping()


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"\xff\xff\xff\xff", 1002),
        (b"GET / HTTP/1.1\r\n\r\n" * 100, 1002),
        (b"\x82\xfe\x7f\xff\0\0\0\0" + b"\0" * 0x7FFF, 1009),
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),
        (masked(0x9, b"x" * 100) * 700, 1008),
    ],
)
async def test_a_client_that_sends_nonsense_is_told_so_and_disturbs_nobody(
    garbage: bytes, code: int, mock_clock: trio.testing.MockClock
) -> None:
    """What is a flood is a matter of time, so that stands still."""
    log = captured()
    target = f"/ws?block_number={BLOCK}&flashblock_index=4"
    async with serving(log) as server, time_at_the_end(mock_clock), server.subscriber(target) as other:
        client = await server.client()
        await client.request(target)
        await client.stream.send_all(garbage)
        found, reason = close_of(await client.close_frame())
        assert found == code
        assert reason.endswith(f"block_number={BLOCK} flashblock_index=4")
        await client.stream.aclose()
        await server.until("subscribers", 1)
        added = log.append(BLOCK + 1, 0)
        assert await receive(other, 1) == [added.body]


async def test_a_close_is_answered_with_its_code_and_ends_the_connection() -> None:
    async with serving(MemoryLog()) as server:
        client = await server.client()
        await client.request()
        await client.stream.send_all(masked(0x8, struct.pack("!H", 4000) + b"bye"))
        (frame,) = await client.all_frames()
        assert close_of(frame) == (4000, "")
        await server.until("subscribers", 0)


async def test_frames_right_behind_the_handshake_are_read() -> None:
    async with serving(MemoryLog()) as server:
        client = await server.client()
        request = (
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        pings = b"".join(masked(0x9, b"%03d" % number) for number in range(200))
        await client.stream.send_all(request.encode() + pings + masked(0x8))
        await client._answer()
        frames = await client.all_frames()
        assert frames[-1].opcode == 0x8
        assert {frame.opcode for frame in frames[:-1]} == {0xA}


async def test_a_reader_that_stops_and_goes_on_misses_nothing() -> None:
    log = MemoryLog()
    async with serving(log) as server, server.subscriber() as fast:
        slow = await server.client(receive_buffer=65_536)
        await slow.request()
        await server.until("subscribers", 2)
        for index in range(200):
            log.append(1, index, body=b"%03d" % index + b"x" * 20_000)
            if index % 20 == 19:
                await receive(fast, 20)
        await server.until("catching_up", 1)
        frames = await slow.frames(200)
        assert [frame.payload for frame in frames] == bodies(log)
        await server.until("catching_up", 0)
        added = log.append(1, 200)
        assert (await slow.frames(201))[-1].payload == added.body
        assert server.metrics.lagged_connections.value == 0


async def test_a_reader_beyond_the_bound_is_closed_with_its_place_and_can_resume() -> None:
    log = MemoryLog()
    async with serving(log, FanoutSettings(max_lag=20, close_timeout_s=30)) as server:
        slow = await server.client(receive_buffer=65_536)
        await slow.request()
        await server.until("subscribers", 1)
        while not server.metrics.lagged_connections.value:
            log.append(1, len(log.entries), body=b"%03d" % len(log.entries) + b"x" * 50_000)
            await trio.testing.wait_all_tasks_blocked(0.001)
        await slow.stream.send_all(masked(0x8, struct.pack("!H", 1000)))
        *data, close = await slow.all_frames()
        reached = len(data) - 1
        assert close_of(close) == (1013, f"lagged payload_id={payload_id(1)} block_number=1 flashblock_index={reached}")
        assert [frame.payload for frame in data] == bodies(log)[: reached + 1]
        again = f"/ws?block_number=1&flashblock_index={reached}"
        async with server.subscriber(again) as ws:
            assert await receive(ws, len(log.entries) - reached - 1) == bodies(log, after=reached + 1)


async def test_one_that_is_reset_disturbs_nobody() -> None:
    log = MemoryLog()
    async with serving(log) as server, server.subscriber() as ws:
        rude = await server.client()
        await rude.request()
        await server.until("subscribers", 2)
        rude.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await rude.stream.aclose()
        for index in range(5):
            log.append(1, index)
        assert await receive(ws, 5) == bodies(log)
        await server.until("subscribers", 1)


async def test_stopping_closes_everybody_with_1001_and_the_place() -> None:
    log = captured()
    async with serving(log) as server:
        async with server.subscriber() as ws:
            await receive(ws, 5)
            server.stopping.set()
            with pytest.raises(ConnectionClosed) as caught, trio.fail_after(60):
                await ws.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 1001
            place = f"payload_id={payload_id(BLOCK)} block_number={BLOCK} flashblock_index=4"
            assert caught.value.reason.reason == f"going away {place}"
        with trio.fail_after(60):
            await server.ended.wait()
        assert server.hub()["subscribers"] == 0


async def test_what_is_committed_when_the_host_stops_is_delivered_before_the_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.fanout.service.LAST_BROADCAST_S", 60)  # a machine may stand still for a second
    log = captured()
    async with serving(log) as server, server.subscriber() as ws:
        await receive(ws, 5)
        await server.until("at_head", {"text": 1, "brotli": 0, "deflate": 0})
        log.append(BLOCK, 5)
        log.append(BLOCK, 6)
        server.stopping.set()
        assert await receive(ws, 2) == bodies(log, after=5)
        with pytest.raises(ConnectionClosed) as caught, trio.fail_after(60):
            await ws.get_message()
        assert caught.value.reason is not None
        assert str(caught.value.reason.reason).endswith(f"block_number={BLOCK} flashblock_index=6")


async def test_a_stalled_reader_does_not_hold_up_the_end(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    log = MemoryLog()
    async with serving(log, FanoutSettings(close_timeout_s=3, drain_timeout_s=5)) as server:
        client = await server.client(receive_buffer=65_536)
        await client.request()
        log.append(1, 0, body=b"x" * 3_000_000)
        await server.until("catching_up", 1)
        server.stopping.set()
        begun = trio.current_time()
        await server.ended.wait()
        assert trio.current_time() - begun <= 5.1


async def test_one_whose_socket_fails_at_the_start_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sock: socket.socket) -> None:
        raise OSError("gone")

    monkeypatch.setattr("appliance.fanout.reception.prepare_socket", fail)
    async with serving(MemoryLog()) as server:
        client = await server.client()
        assert (await client.request())[0] == 101
        assert await client.all_frames() == []
        with trio.fail_after(60):
            while server.fanout.statistics()["admitted"]:
                await trio.lowlevel.checkpoint()
        assert server.metrics.active_connections.value == server.metrics.closed_connections.value == 0


async def test_one_that_comes_in_at_the_last_moment_is_sent_away_too() -> None:
    log = captured()
    looked_up, answer = trio.Event(), trio.Event()
    plain_locate = log.locate

    async def slow_locate(resume: Resume) -> Located:
        looked_up.set()
        await answer.wait()
        return await plain_locate(resume)

    log.locate = slow_locate  # type: ignore[method-assign]  # holds the request between limits and answer

    async def stop() -> None:
        await looked_up.wait()
        server.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        answer.set()

    async with serving(log) as server, trio.open_nursery() as nursery:
        late = await server.client()
        nursery.start_soon(stop)
        assert (await late.request())[0] == 101
        assert close_of((await late.frames(1))[-1])[0] == 1001


async def test_hundreds_who_come_back_at_once_each_get_their_own_suffix() -> None:
    log = MemoryLog(tail=50)
    for index in range(150):
        log.append(1, index, body=b"%03d" % index + b"x" * 2_000)
    subscribers = 200
    async with serving(log) as server:
        early_target = "/ws?block_number=1&flashblock_index=149"
        async with server.subscriber(early_target) as early, trio.open_nursery() as nursery:
            for number in range(subscribers):
                nursery.start_soon(_resume, server, log, number % 150)
            for index in range(150, 170):
                log.append(1, index, body=b"%03d" % index + b"x" * 2_000)
                assert await receive(early, 1) == [log.entries[-1].body]
        assert server.metrics.lagged_connections.value == 0
        assert log.reads < 150 / 32 * subscribers


async def _resume(server: Serving, log: MemoryLog, index: int) -> None:
    client = await server.client()
    status, _, _ = await client.request(f"/ws?block_number=1&flashblock_index={index}")
    assert status == 101
    frames = await client.frames(169 - index)
    assert [frame.payload for frame in frames] == bodies(log, after=index + 1)
    await client.stream.aclose()


async def test_a_log_that_cannot_be_read_is_503() -> None:
    log = captured()
    log.broken = True
    async with serving(log) as server:
        status, _, headers = await rejected(server, "/ws")
        assert (status, headers["retry-after"]) == (503, "5")
        assert server.fanout.statistics()["admitted"] == 0


async def test_the_status_page_can_show_it() -> None:
    async with serving(captured()) as server, server.subscriber():
        shown = json.loads(json.dumps(server.fanout.statistics()))
        assert shown["admitted"] == 1
        assert shown["hub"]["subscribers"] == 1
        assert shown["counts"]["new_connections"] == 1
        assert shown["server"]["upgrades"] == 1


async def test_the_plane_can_run_again() -> None:
    log = captured()
    for _ in range(2):
        async with serving(log) as server, server.subscriber() as ws:
            assert await receive(ws, 5) == bodies(log)
