"""Sockets that tell when something comes: once, to whom it concerns, and without holding the others up."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import trio
from structlog.testing import capture_logs

from appliance.net.readiness import Readiness


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    for ours, _ in made:
        ours.setblocking(False)
    yield made
    for pair in made:
        for end in pair:
            end.close()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_what_comes_is_told_once_and_a_hangup_as_such() -> None:
    readiness, told = Readiness(), list[tuple[int, bool]]()
    with pairs(3) as made:
        for number, (ours, _) in enumerate(made):
            readiness.watch(ours.fileno(), lambda gone, number=number: told.append((number, gone)))  # type: ignore[misc]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await settled()
            assert told == []
            made[1][1].send(b"x")
            await settled()
            assert told == [(1, False)]  # nobody has read it, and it is told no more
            made[1][1].send(b"y")
            await settled()
            assert told == [(1, False)] * 2
            made[2][1].shutdown(socket.SHUT_WR)
            await settled()
            assert told[2:] == [(2, True)]
            nursery.cancel_scope.cancel()


async def test_what_is_there_already_is_told_and_what_was_forgotten_is_not() -> None:
    readiness, told = Readiness(), list[bool]()
    with pairs(2) as made:
        for ours, theirs in made:
            theirs.send(b"x")
            readiness.watch(ours.fileno(), told.append)
        readiness.forget(made[1][0].fileno())
        readiness.forget(made[1][0].fileno())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await settled()
            assert told == [False]
            nursery.cancel_scope.cancel()
        readiness.forget(made[0][0].fileno())  # after its end, too
        readiness.watch(made[0][0].fileno(), told.append)


async def test_a_callback_may_forget_another_one_of_the_same_moment() -> None:
    readiness, told = Readiness(), list[int]()
    with pairs(2) as made:

        def callback(number: int, _: bool) -> None:
            told.append(number)
            readiness.forget(made[1 - number][0].fileno())

        for number, (ours, theirs) in enumerate(made):
            theirs.send(b"x")
            readiness.watch(ours.fileno(), partial(callback, number))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await settled()
            assert told == [0]
            nursery.cancel_scope.cancel()


async def test_a_callback_that_fails_stops_nobody_else() -> None:
    readiness, told = Readiness(), list[bool]()

    def fail(_: bool) -> None:
        raise ZeroDivisionError

    with pairs(2) as made, capture_logs() as logs:
        for (ours, theirs), callback in zip(made, (fail, told.append), strict=True):
            theirs.send(b"x")
            readiness.watch(ours.fileno(), callback)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            await settled()
            nursery.cancel_scope.cancel()
    assert told == [False]
    assert [line["event"] for line in logs] == ["callback of a connection failed"]


async def test_sockets_that_never_rest_are_told_of_in_turn_and_leave_turns_to_tasks() -> None:
    readiness, told, turns = Readiness(), list[int](), list[int]()
    count = 100
    with pairs(count) as made:

        def callback(number: int, _: bool) -> None:
            told.append(number)
            made[number][1].send(b"x")

        async def other() -> None:
            while True:
                turns.append(len(told))
                await trio.lowlevel.checkpoint()

        for number, (ours, theirs) in enumerate(made):
            theirs.send(b"x")
            readiness.watch(ours.fileno(), partial(callback, number))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.run)
            nursery.start_soon(other)
            while len(told) < 10 * count:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert all(sorted(told[begin : begin + count]) == list(range(count)) for begin in range(0, 10 * count, count))
    assert max(after - before for before, after in pairwise(turns)) <= 64
