"""What subscribers say, and their end, on real sockets and with one task for all."""

import itertools
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from appliance.fanout.attendance import RECEIVE_BYTES, Attendance
from appliance.fanout.frames import Variant
from appliance.fanout.inbound import Inbound, is_bare_pong
from appliance.fanout.marks import Mark
from appliance.fanout.pacing import PASS_EVERY_S, SLICE_S
from appliance.fanout.session import Session, Stage
from appliance.fanout.turns import Turns
from tests.fanout.fakes import ParsedFrame, parse_frames
from tests.fanout.serving import close_of
from tests.fanout.support import Stand
from tests.support.eventually import eventually

BARE_PONG = bytes((0x8A, 0x80, 1, 2, 3, 4))


def said(*events: Event) -> bytes:
    """What a client sends."""
    connection = Connection(ConnectionType.CLIENT)
    return b"".join(bytes(connection.send(event)) for event in events)


class Guest:
    """One subscriber, and the other end of its socket."""

    def __init__(self, session: Session, ours: socket.socket, theirs: socket.socket) -> None:
        self.session = session
        self.ours = ours
        self.theirs = theirs
        self.ended = 0

    def note_end(self) -> None:
        self.ended += 1

    def frames(self) -> list[ParsedFrame]:
        """What has come to it since it last looked."""
        try:
            return parse_frames(self.theirs.recv(1 << 20))[0]
        except BlockingIOError:
            return []


class Room(Stand):
    """A hub whose sessions have real sockets."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        super().__init__()
        self.turns = Turns(clock)
        self.attendance = Attendance(self.hub, self.turns)
        self.guests: list[Guest] = []

    def enter(self, data: bytes = b"") -> Guest:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        session = Session(ours, Variant.TEXT, self.hub.mark, None, next_ping_at=1e9, drop=lambda: None)
        guest = Guest(session, ours, theirs)
        self.guests.append(guest)
        self.attendance.admit(session, ours, data, guest.note_end)
        return guest


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.002)


@asynccontextmanager
async def attended(clock: Callable[[], float] = perf_counter) -> AsyncIterator[Room]:
    room = Room(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.attendance.run)
        yield room
        nursery.cancel_scope.cancel()
    assert len(room.attendance) == 0
    assert [guest.ended for guest in room.guests] == [1] * len(room.guests)
    for guest in room.guests:
        guest.theirs.close()


async def test_an_answer_to_our_ping_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    plain = Inbound.__init__

    def init(self: Inbound, now: float, *, deflate: bool = False) -> None:
        made.append(now)
        plain(self, now, deflate=deflate)

    monkeypatch.setattr(Inbound, "__init__", init)
    async with attended() as room:
        guest = room.enter()
        guest.session.queue_ping(0.0, 15.0)
        guest.theirs.send(BARE_PONG)
        await settle()
        assert guest.session.awaiting_pong_since is None
        assert made == []
        guest.theirs.send(BARE_PONG)  # nobody asked for this one: it counts against a flood
        await settle()
        assert len(made) == 1
        assert guest.session.stage is Stage.HEAD


@given(st.binary(min_size=4, max_size=4))
def test_a_bare_pong_is_what_a_parser_takes_for_one(mask: bytes) -> None:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(b"\x8a\x80" + mask)
    assert [(type(event), getattr(event, "payload", None)) for event in connection.events()] == [(Pong, b"")]
    assert is_bare_pong(b"\x8a\x80" + mask)
    assert not is_bare_pong(b"\x8a\x80" + mask + b"\x8a")
    assert not is_bare_pong((b"\x8a\x80" + mask)[:5])
    assert not is_bare_pong(b"\xca\x80" + mask)
    assert not is_bare_pong(b"\x8a\x81" + mask)


async def test_a_ping_is_answered_with_its_payload() -> None:
    async with attended() as room:
        guest = room.enter()
        guest.theirs.send(said(Ping(payload=b"are you there")))
        await settle()
        assert guest.frames() == [ParsedFrame(0xA, b"are you there")]


async def test_bytes_behind_the_request_are_heard_first_and_in_their_order() -> None:
    pings = said(*(Ping(payload=f"{number:0100}".encode()) for number in range(20)))
    assert len(pings) > 4 * RECEIVE_BYTES
    async with attended() as room:
        guest = room.enter(pings[:-50])
        guest.theirs.send(pings[-50:])
        await settle()
        answers = [int(frame.payload) for frame in guest.frames()]
        assert answers == sorted(answers)
        assert answers[-1] == 19


async def test_a_close_is_answered_and_the_connection_ends() -> None:
    async with attended() as room:
        guest = room.enter()
        guest.theirs.send(said(CloseConnection(code=1000)))
        await settle()
        assert [frame.opcode for frame in guest.frames()] == [0x8]
        assert guest.ended == 1
        assert guest.session.stage is Stage.GONE
        assert guest.theirs.recv(10) == b""


async def test_our_close_waits_for_theirs_and_all_else_is_thrown_away() -> None:
    async with attended() as room:
        guest = room.enter()
        guest.theirs.send(b"\xff" * 100)  # no websocket
        await settle()
        assert close_of(guest.frames()[0])[0] == 1002
        assert guest.ended == 0
        for _ in range(5):
            guest.theirs.send(b"\xff" * 10_000)
            await settle()
        assert guest.ended == 0
        assert guest.frames() == []
        guest.theirs.shutdown(socket.SHUT_WR)
        await settle()
        assert guest.ended == 1


async def test_who_hangs_up_is_gone() -> None:
    async with attended() as room:
        guests = [room.enter() for _ in range(3)]
        guests[0].theirs.close()
        guests[1].theirs.shutdown(socket.SHUT_WR)
        await settle()
        assert [guest.ended for guest in guests] == [1, 1, 0]
        assert room.hub.sessions == {guests[2].session}


async def test_one_that_is_dropped_ends_later_and_once() -> None:
    async with attended() as room:
        guest = room.enter()
        room.hub.lost(guest.session)
        guest.session.drop()
        assert guest.ended == 0  # whoever asked may be in the middle of a loop
        guest.theirs.close()
        await settle()
        assert guest.ended == 1
        guest.session.drop()
        await settle()
        assert guest.ended == 1


async def test_a_number_that_the_kernel_gives_again_is_another_connection() -> None:
    async with attended() as room:
        first = room.enter()
        number = first.ours.fileno()
        first.theirs.close()
        await settle()
        others = [room.enter() for _ in range(3)]
        assert number in [guest.ours.fileno() for guest in others]
        first.session.drop()
        await settle()
        assert [guest.ended for guest in others] == [0, 0, 0]


async def test_what_goes_wrong_with_one_is_its_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    async with attended() as room:
        bad, good = room.enter(), room.enter()
        plain = room.hub.write_control

        def fail(session: Session) -> None:
            if session is bad.session:
                raise RuntimeError("broken")
            plain(session)

        monkeypatch.setattr(room.hub, "write_control", fail)
        for guest in (bad, good):
            guest.theirs.send(said(Ping(payload=b"x"), TextMessage(data="hello")))
        await settle()
        assert [bad.ended, good.ended] == [1, 0]
        assert good.frames() == [ParsedFrame(0xA, b"x")]


async def test_what_goes_wrong_with_bytes_behind_the_request_is_one_s_own_affair_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Inbound.feed

    def fail(self: Inbound, data: bytes, now: float) -> object:
        if b"bad" in data:
            raise RuntimeError("broken")
        return plain(self, data, now)

    monkeypatch.setattr(Inbound, "feed", fail)
    async with attended() as room:
        good, bad = room.enter(said(Ping(payload=b"x"))), room.enter(b"bad")
        await settle()
        assert [bad.ended, good.ended] == [1, 0]
        assert good.frames() == [ParsedFrame(0xA, b"x")]


async def test_a_reset_is_an_end() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    async with attended() as room:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        guest = Guest(Session(ours, Variant.TEXT, Mark(0), None, next_ping_at=1e9, drop=lambda: None), ours, theirs)
        room.attendance.admit(guest.session, ours, b"", guest.note_end)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await eventually(lambda: guest.ended == 1)  # by way of the network stack
    listener.close()


async def test_thousands_that_break_at_once_are_ended_a_few_in_a_pass() -> None:
    ended_in_a_pass: list[int] = []

    async def watch(room: Room) -> None:
        before = 0
        while True:
            await trio.lowlevel.checkpoint()
            ended = sum(guest.ended for guest in room.guests)
            ended_in_a_pass.append(ended - before)
            before = ended

    looks = itertools.count()
    async with attended(lambda: next(looks) * SLICE_S / 10) as room:  # ten looks at the clock are a slice
        guests = [room.enter() for _ in range(400)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, room)
            for guest in guests:
                guest.theirs.close()
            await room.attendance.wait_empty()
            nursery.cancel_scope.cancel()
        assert room.hub.sessions == set()
        assert max(ended_in_a_pass) <= 10 * PASS_EVERY_S / SLICE_S


async def test_a_flood_of_one_holds_nobody_up() -> None:
    async with attended() as room:
        flooder, other = room.enter(), room.enter()
        data = said(*(Ping(payload=b"") for _ in range(2000)))
        sent = flooder.theirs.send(data)
        other.theirs.send(said(Ping(payload=b"me too")))
        with trio.fail_after(60):
            while not (frames := other.frames()):
                await trio.lowlevel.checkpoint()
        assert frames == [ParsedFrame(0xA, b"me too")]
        assert sent > 10 * RECEIVE_BYTES
        await settle()


async def test_all_can_be_cut_in_turns() -> None:
    async with attended() as room:
        guests = [room.enter() for _ in range(100)]
        with trio.fail_after(60):
            await room.attendance.cut_all()
        assert all(guest.ended == 1 for guest in guests)
        with trio.fail_after(60):
            await room.attendance.wait_empty()


async def test_idle_it_is_two_tasks_however_many_there_are() -> None:
    async with attended() as room:
        await settle()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(200):
            room.enter()
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert len(room.attendance) == 200


async def test_one_whose_writer_waits_for_room_can_be_ended() -> None:
    woken: list[str] = []

    async def wait_for_room(sock: socket.socket) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await trio.lowlevel.wait_writable(sock)
        woken.append("closed")

    async with attended() as room:
        guest = room.enter()
        while True:
            try:
                guest.ours.send(bytes(100_000))
            except BlockingIOError:
                break
        guest.session.has_writer = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_room, guest.ours)
            await trio.testing.wait_all_tasks_blocked()
            guest.session.drop()
        assert woken == ["closed"]
