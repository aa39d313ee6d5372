import socket
from collections.abc import Iterator

import pytest
import trio

from appliance.net import socket_io

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_receiving_waits_for_bytes_and_gives_at_most_what_was_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await socket_io.receive(ours, 3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        theirs.send(b"hello")

    assert received == [b"hel"]
    assert await socket_io.receive(ours, 100) == b"lo"


async def test_an_end_and_a_reset_are_both_an_end(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(b"never read, so that closing makes a reset")
    theirs.close()

    assert await socket_io.receive(ours, 100) == b""
    assert await socket_io.receive(ours, 100) == b""


async def test_a_reset_can_be_told_from_an_end(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    assert await socket_io.receive_or_raise(ours, 100) == b"x"
    ours.send(b"never read, so that closing makes a reset")
    theirs.close()

    with pytest.raises(ConnectionResetError):
        await socket_io.receive_or_raise(ours, 100)


async def test_receiving_lets_other_tasks_run_even_when_bytes_are_there(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"xy")
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await socket_io.receive(ours, 1)
        await socket_io.receive(ours, 1)  # trio runs the tasks of one turn in any order

        assert ran.is_set()


async def test_sending_goes_on_when_the_other_side_reads(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    data = bytes(range(256)) * 10_000
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(socket_io.send_all, ours, data)
        await trio.testing.wait_all_tasks_blocked()
        assert socket_io.send_now(ours, b"full") == 0
        while len(got) < len(data):
            got += await socket_io.receive(theirs, 1 << 20)

    assert got == data


async def test_sending_to_who_left_is_an_os_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()

    with pytest.raises(OSError, match="pipe"):
        await socket_io.send_all(ours, b"x")
    with pytest.raises(OSError, match="pipe"):
        socket_io.send_now(ours, b"x")


@pytest.mark.parametrize("size", [0, 300, 16_384, 16_385, 2_000_000])
async def test_a_message_goes_out_as_far_as_there_is_room_and_the_rest_follows(pair: Pair, size: int) -> None:
    ours, theirs = pair
    head, body = b"head ", bytes(size // 2) + b"x" * (size - size // 2)
    rest = socket_io.send_message_now(ours, head, body)
    received = bytearray()

    async def send() -> None:
        await socket_io.send_all(ours, *rest)
        ours.shutdown(socket.SHUT_WR)

    theirs.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await socket_io.receive(theirs, 100_000):
            received += data
    assert bytes(received) == head + body


@pytest.mark.parametrize("size", [1, 100_000])
async def test_where_there_is_no_room_all_of_a_message_is_left(pair: Pair, size: int) -> None:
    ours, _ = pair
    while socket_io.send_now(ours, bytes(100_000)):
        pass
    rest = socket_io.send_message_now(ours, b"head", bytes(size))
    assert b"".join(bytes(part) for part in rest) == b"head" + bytes(size)


async def test_a_message_to_nobody_is_an_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="pipe"):
        socket_io.send_message_now(ours, b"head", b"body")
