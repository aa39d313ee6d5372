"""Everybody breaks and comes back, again and again, while the stream flows: by either way of shaking hands."""

import random
import socket
import struct
import zlib

import brotli
import pytest
import trio

from appliance.fanout.service import FanoutSettings
from tests.fanout.fakes import MemoryLog, ParsedFrame, parse_frames
from tests.fanout.serving import KEY, Serving, masked, serving

SUBSCRIBERS = 60
ENTRIES = 240
RESET = struct.pack("ii", 1, 0)
HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
).encode()


class Wanderer:
    """A subscriber that reads, breaks off in the middle of whatever comes, and resumes after its last whole message."""

    def __init__(self, server: Serving, log: MemoryLog, number: int) -> None:
        self.seen: list[bytes] = []
        self.visits = 0
        self._server = server
        self._log = log
        self._rng = random.Random(number)
        self._encoding = ("text", "brotli", "deflate")[number % 3]

    async def run(self) -> None:
        while len(self.seen) < ENTRIES:
            self.visits += 1
            await self._visit(self._rng.randint(1, ENTRIES // 3))

    async def _visit(self, messages: int) -> None:
        sock = socket.create_connection(("127.0.0.1", self._server.port))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with sock:
            await self._ask(sock)
            await self._read(sock, messages)
            trio.lowlevel.notify_closing(sock)

    async def _ask(self, sock: socket.socket) -> None:
        request = self._request()
        cut = self._rng.choice([len(request), len(request), self._rng.randint(1, len(request) - 1)])
        sock.send(request[:cut])
        if cut < len(request):
            await trio.sleep(0.002)
            sock.send(request[cut:] + masked(0x9, b"early"))  # and a ping right behind it

    def _request(self) -> bytes:
        last = self._log.entries[len(self.seen) - 1]
        place = f"payload_id={last.payload_id}&flashblock_index={last.index}" if self.seen else "block_number=1"
        extra = "&encoding=brotli" if self._encoding == "brotli" else ""
        fields = ["Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        fields.append(f"Sec-WebSocket-Key: {KEY}")
        if self._encoding == "deflate":
            fields.append("Sec-WebSocket-Extensions: permessage-deflate")
        return "\r\n".join([f"GET /ws?{place}{extra} HTTP/1.1", *fields, "", ""]).encode()

    async def _read(self, sock: socket.socket, messages: int) -> None:
        data, end = b"", min(len(self.seen) + messages, ENTRIES)
        while b"\r\n\r\n" not in data:
            data += await _some(sock)
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        while True:
            frames, data = parse_frames(data)
            texts = [_text(frame) for frame in frames if frame.opcode in (0x1, 0x2)]
            self.seen += texts[: end - len(self.seen)]  # it breaks off where it was to, however much came at once
            if len(self.seen) == end:
                return
            data += await _some(sock)


async def _some(sock: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(sock)
    data = sock.recv(1 << 16)
    assert data, "nobody is sent away"
    return data


def _text(frame: ParsedFrame) -> bytes:
    if frame.opcode == 0x2:
        return bytes(brotli.decompress(frame.payload))
    return zlib.decompressobj(-12).decompress(frame.payload + b"\0\0\xff\xff") if frame.rsv1 else frame.payload


async def publish(log: MemoryLog) -> None:
    for number in range(ENTRIES):
        log.append(
            1 + number // 10, number % 10, body=b'{"n":%d,"filler":"%s"}' % (number, b"x" * (number * 37 % 3000))
        )
        await trio.sleep(0.001)


@pytest.mark.parametrize("tail", [1_000_000, 20], ids=["from memory", "from disk"])
async def test_everybody_gets_everything_once_and_in_order(tail: int) -> None:
    log = MemoryLog(tail)
    async with serving(log) as server:
        wanderers = [Wanderer(server, log, number) for number in range(SUBSCRIBERS)]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, log)
                await trio.sleep(0.005)
                for wanderer in wanderers:
                    nursery.start_soon(wanderer.run)
            await server.until("subscribers", 0)
        expected = [entry.body for entry in log.entries]
        assert all(wanderer.seen == expected for wanderer in wanderers)
        assert sum(wanderer.visits for wanderer in wanderers) > 3 * SUBSCRIBERS
        assert server.fanout.statistics()["admitted"] == 0
        counts = server.metrics
        assert counts.new_connections.value == counts.closed_connections.value
        assert counts.active_connections.value == 0


def accepted(server: Serving) -> int:
    found = server.fanout.statistics()["server"]
    assert isinstance(found, dict)
    return int(found["accepted"])


async def test_hundreds_whose_requests_come_at_the_same_moment_are_let_in_a_few_in_a_pass() -> None:
    in_a_pass: list[int] = []
    async with serving(MemoryLog(), FanoutSettings()) as server:

        async def watch() -> None:
            before = 0
            while True:
                await trio.lowlevel.checkpoint()
                now = server.metrics.new_connections.value
                in_a_pass.append(now - before)
                before = now

        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        for client in clients:
            client.send(HANDSHAKE[:-2])
        with trio.fail_after(60):
            while accepted(server) < len(clients):
                await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for client in clients:
                client.send(HANDSHAKE[-2:])
            await server.until("subscribers", len(clients))
            nursery.cancel_scope.cancel()
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 101"
            client.close()
    assert max(in_a_pass) <= 100  # as many as 2 ms are enough for, on a machine faster than ours


async def test_who_asks_something_else_is_answered_and_closed() -> None:
    async with serving(MemoryLog(), FanoutSettings()) as server:
        client = await server.client()
        await client.stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = b""
        async for data in client.stream:
            answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
