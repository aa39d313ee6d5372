"""Many sockets behind one descriptor."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from appliance.net.readable import ReadableSet


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    try:
        yield made
    finally:
        for pair in made:
            for end in pair:
                end.close()


@contextmanager
def watching(sockets: list[tuple[socket.socket, socket.socket]]) -> Iterator[ReadableSet]:
    ready = ReadableSet()
    for ours, _ in sockets:
        ready.watch(ours.fileno())
    try:
        yield ready
    finally:
        ready.close()


def test_who_has_something_to_read_is_named_until_it_was_read() -> None:
    with pairs(3) as made, watching(made) as ready:
        assert ready.take(10) == []
        made[1][1].send(b"x")
        assert ready.take(10) == ready.take(10) == [made[1][0].fileno()]
        made[1][0].recv(10)
        assert ready.take(10) == []


def test_an_end_is_something_to_read() -> None:
    with pairs(2) as made, watching(made) as ready:
        made[0][1].close()
        made[1][1].shutdown(socket.SHUT_WR)
        assert sorted(ready.take(10)) == sorted(ours.fileno() for ours, _ in made)


def test_no_more_are_taken_than_asked_for_and_all_get_their_turn() -> None:
    with pairs(10) as made, watching(made) as ready:
        for _, theirs in made:
            theirs.send(b"x")
        taken = [ready.take(4) for _ in range(5)]
        assert all(len(some) == 4 for some in taken)
        assert {fd for some in taken for fd in some} == {ours.fileno() for ours, _ in made}


def test_who_is_forgotten_is_not_named() -> None:
    with pairs(2) as made, watching(made) as ready:
        for _, theirs in made:
            theirs.send(b"x")
        ready.forget(made[0][0].fileno())
        assert ready.take(10) == [made[1][0].fileno()]


async def test_a_task_waits_for_all_of_them_at_once() -> None:
    woken: list[list[int]] = []

    async def wait(ready: ReadableSet) -> None:
        await ready.wait()
        woken.append(ready.take(1000))

    with pairs(200) as made, watching(made) as ready:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, ready)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == []
            for _, theirs in made:
                theirs.close()
        assert len(woken[0]) == 200


async def test_waiting_for_what_is_there_already_ends_at_once() -> None:
    with pairs(1) as made, watching(made) as ready:
        made[0][1].send(b"x")
        with trio.fail_after(60):
            await ready.wait()
            await ready.wait()
