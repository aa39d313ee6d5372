"""Clients that are there and have not asked yet."""

import errno
import itertools
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.net.http_server import HttpLimits
from appliance.net.http_session import Session
from appliance.net.lobby import Guest, Lobby, endless
from tests.net.serving import Peer, Running
from tests.net.test_greeting import PLAIN, REQUEST, SWITCHED, Taken, asking, greeting, refuse

Seen = list[tuple[Guest, bool]]


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        found = [socket.socketpair() for _ in range(count)]
        for ours, theirs in found:
            stack.enter_context(ours).setblocking(False)
            stack.enter_context(theirs).setblocking(False)
        yield found


@asynccontextmanager
async def lobby(look: Callable[[Guest, bool], bool]) -> AsyncIterator[Lobby]:
    made = Lobby(endless, look)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()
    made.close()


async def test_a_guest_is_looked_at_with_everything_that_comes_until_it_leaves() -> None:
    seen: Seen = []

    def look(guest: Guest, gone: bool) -> bool:
        seen.append((guest, gone))
        return len(seen) == 3

    with pairs(1) as [(ours, theirs)]:
        async with lobby(look) as room:
            room.enter(ours, "1.2.3.4")
            await wait_all_tasks_blocked()
            assert seen == []
            for count in (1, 2, 3):
                theirs.send(b"x")
                await wait_all_tasks_blocked()
                assert len(seen) == count  # once, though nobody reads it
            assert len(room) == 0
            theirs.send(b"x")
            await wait_all_tasks_blocked()
        assert [(guest.socket, guest.peer, gone) for guest, gone in seen] == [(ours, "1.2.3.4", False)] * 3


async def test_what_has_come_before_it_enters_is_looked_at_too() -> None:
    looked = itertools.count()
    with pairs(1) as [(ours, theirs)]:
        theirs.send(b"x")
        async with lobby(lambda *_: next(looked) > 0) as room:
            room.enter(ours, "")
            await wait_all_tasks_blocked()
    assert next(looked) == 1


async def test_who_hangs_up_is_known_to_be_gone() -> None:
    seen: list[bool] = []

    def look(_: Guest, gone: bool) -> bool:
        seen.append(gone)
        return gone

    with pairs(1) as [(ours, theirs)]:
        async with lobby(look) as room:
            room.enter(ours, "")
            theirs.send(b"half")
            await wait_all_tasks_blocked()
            theirs.close()
            await wait_all_tasks_blocked()
            assert (seen, len(room)) == ([False, True], 0)


async def test_thousands_who_speak_at_once_are_looked_at_four_in_a_pass() -> None:
    looked, in_a_pass = itertools.count(), list[int]()

    def look(_: Guest, __: bool) -> bool:
        in_a_pass[-1] += 1
        next(looked)
        return True

    async def watch() -> None:
        while True:
            in_a_pass.append(0)
            await trio.lowlevel.checkpoint()

    with pairs(200) as found:
        async with lobby(look) as room, trio.open_nursery() as nursery:
            for ours, _ in found:
                room.enter(ours, "")
            for _, theirs in found:
                theirs.send(b"x")
            in_a_pass.append(0)
            nursery.start_soon(watch)
            while len(room):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert next(looked) == 200
        assert max(in_a_pass) <= 8  # passes are shuffled: two of them may fall between two marks


async def test_those_who_waited_longest_leave_first_and_no_more_than_wanted(autojump_clock: MockClock) -> None:
    with pairs(5) as found:
        async with lobby(lambda *_: True) as room:
            for ours, _ in found:
                room.enter(ours, "")
                await trio.sleep(1)
            (oldest,) = room._older(math.inf, 1)
            assert oldest.socket is found[0][0]
            assert [guest.socket for guest in room.leave_older(2.0, 2)] == [found[0][0], found[1][0]]
            assert [guest.socket for guest in room.leave_older(2.0, 2)] == [found[2][0]]
            assert room.leave_older(2.0, 2) == []
            assert len(room.leave_older(math.inf, 100)) == 2
            assert len(room) == 0


async def come(there: Running, data: bytes = b"") -> Peer:
    """A client that was accepted, and has said no more than this."""
    peer = await there.connect()
    if data:
        await peer.send(data)
    await wait_all_tasks_blocked()
    return peer


async def test_one_who_asks_later_is_answered_without_a_task_or_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Taken()
    monkeypatch.setattr(Session, "run", None)  # whoever makes one fails
    async with greeting(taken.hand_over, refuse) as there:
        before = trio.lowlevel.current_statistics().tasks_living
        peer = await come(there)
        assert (there.count("connections"), trio.lowlevel.current_statistics().tasks_living) == (1, before)
        for begin in range(0, len(REQUEST), 7):
            await peer.send(REQUEST[begin : begin + 7])
            await wait_all_tasks_blocked()
        assert await peer.read_exactly(len(SWITCHED)) == SWITCHED
        assert (there.count("connections"), there.count("requests"), there.count("upgrades")) == (1, 1, 1)
        assert trio.lowlevel.current_statistics().tasks_living == before
        taken.connections[0][0].send(b"by its taker")
        assert await peer.read_exactly(12) == b"by its taker"
        taken.end()
        assert there.count("connections") == 0


async def test_a_plain_request_goes_from_the_lobby_to_the_handler() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, taken.handle) as there:
        peer = await come(there, PLAIN[:10])
        assert (await peer.ask(PLAIN[10:])).body == b"by the handler"


async def test_what_is_no_request_is_refused_with_its_status() -> None:
    async with greeting(Taken().hand_over, refuse) as there:
        peer = await come(there, b"GET ")
        assert (await peer.ask(b"\x00\x00\r\n\r\n")).status == 400


@pytest.mark.parametrize("data", [b"", REQUEST[:30]])
async def test_who_goes_away_before_it_has_asked_is_forgotten(data: bytes) -> None:
    async with greeting(Taken().hand_over, refuse) as there:
        peer = await come(there, data)
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert there.count("connections") == 0


async def test_who_says_nothing_or_half_is_closed_in_time(autojump_clock: MockClock) -> None:
    limits = HttpLimits(first_request_timeout_s=10, idle_timeout_s=5)
    async with greeting(Taken().hand_over, refuse, limits) as there:
        silent, half = await come(there), await come(there, REQUEST[:30])
        assert (await half.answer()).status == 408
        assert 5 <= trio.current_time() <= 6
        assert await silent.rest() == b""
        assert (there.count("connections"), there.count("request_timeouts")) == (0, 1)


async def test_a_newcomer_takes_the_place_of_the_guest_who_waited_longest(autojump_clock: MockClock) -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse, HttpLimits(max_connections=2)) as there:
        half, silent = await come(there, REQUEST[:30]), await come(there)
        assert (await (await come(there)).answer()).status == 503  # nobody has waited for a second yet
        await trio.sleep(2)
        first = asking(there)
        assert await first.read_exactly(len(SWITCHED)) == SWITCHED
        assert (await half.answer()).status == 503
        await asking(there).read_exactly(len(SWITCHED))
        assert await silent.rest() == b""
        assert (there.count("replaced"), there.count("connections")) == (2, 2)
        taken.end()


async def test_a_guest_who_has_asked_is_not_replaced_though_nobody_has_looked_yet(autojump_clock: MockClock) -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse, HttpLimits(max_connections=3)) as there:
        guests = [await come(there) for _ in range(3)]
        await trio.sleep(2)
        for guest in reversed(guests):
            guest.send_now(REQUEST)
        newcomer = await there.connect()
        assert (await newcomer.answer()).status == 503
        for guest in guests:
            assert await guest.read_exactly(len(SWITCHED)) == SWITCHED
        taken.end()


async def test_a_guest_who_cannot_be_watched_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    enter, taken = Lobby.enter, Taken()

    def fail_once(*_: object) -> None:
        monkeypatch.setattr(Lobby, "enter", enter)
        raise OSError(errno.ENOSPC, "no room for another watch")

    async with greeting(taken.hand_over, refuse) as there:
        monkeypatch.setattr(Lobby, "enter", fail_once)
        assert await (await come(there)).rest() == b""
        assert await asking(there).read_exactly(len(SWITCHED)) == SWITCHED
        assert there.count("connections") == 1
        taken.end()


async def test_a_long_half_of_a_head_is_read_by_a_session_and_not_again_and_again() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, taken.handle) as there:
        peer = await come(there, REQUEST[:-2] + b"X: " + b"x" * 1100)
        await wait_all_tasks_blocked()
        assert len(there.server._lobby or ()) == 0
        assert len(there.server._sessions) == 1
        await peer.send(b"\r\n\r\n")
        await wait_all_tasks_blocked()
        assert there.count("requests") == 1
        taken.end()


async def test_a_stop_closes_silent_guests_and_answers_those_who_have_begun() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, taken.handle) as there:
        silent, half = await come(there), await come(there, PLAIN[:-2])
        there.stopping.set()
        assert await silent.rest() == b""
        assert (await half.ask(PLAIN[-2:])).body == b"by the handler"


async def test_whoever_waits_is_closed_when_the_server_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with greeting(Taken().hand_over, refuse) as there:
            peer = await come(there)
            same = socket.socket(fileno=socket.dup(peer.stream.socket.fileno()))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    with same:
        assert same.recv(1) == b""


async def test_who_was_not_looked_at_in_time_is_looked_at_before_it_has_to_go(autojump_clock: MockClock) -> None:
    """Thousands may wait for their turn: who has asked is not refused because nobody had time for it."""
    asked, silent = [0, 2], [1, 3]
    taken: list[socket.socket] = []

    def look(guest: Guest, _: bool) -> bool:
        try:
            guest.socket.recv(1)
        except BlockingIOError:
            return False
        taken.append(guest.socket)
        return True

    with pairs(4) as found:
        room = Lobby(endless, look)  # that nobody runs
        for ours, _ in found:
            room.enter(ours, "")
        for number in asked:
            found[number][1].send(b"x")
        looked, expired = room.expire(0.0, 3)
        assert (looked, [guest.socket for guest in expired]) == (3, [found[1][0]])
        looked, expired = room.expire(0.0, 3)
        assert (looked, [guest.socket for guest in expired]) == (1, [found[silent[1]][0]])
        assert room.expire(0.0, 3) == (0, [])
        assert taken == [found[number][0] for number in asked]
        room.close()


async def test_who_has_begun_to_ask_is_let_in_before_others_are_accepted() -> None:
    taken = Taken()
    async with greeting(taken.hand_over, refuse) as there:
        guests = [await come(there, REQUEST[:-2]) for _ in range(6)]
        # All in one go: the listener is ready and so are the guests.
        newcomers = [asking(there) for _ in range(6)]
        for guest in guests:
            assert guest.send_now(REQUEST[-2:])
        for peer in guests + newcomers:
            assert await peer.read_exactly(len(SWITCHED)) == SWITCHED
        taken.end()
