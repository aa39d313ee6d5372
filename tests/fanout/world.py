"""A world of subscribers for property tests: every action that can happen, and what must hold after any of them."""

import json
import random

import brotli

from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.payloads import PayloadState
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.filters import Filter
from appliance.fanout.frames import Variant
from appliance.fanout.hub import HubSettings
from appliance.fanout.notices import fate
from appliance.fanout.session import Session, Stage
from tests.fanout.fakes import ParsedFrame, fitful, parse_frames, payload_id
from tests.fanout.support import Stand, Subscriber

ADDRESSES = [bytes([number]) * 20 for number in range(3)]
TOPICS = [bytes([number]) * 32 for number in range(2)]


class World:
    """Actions take their randomness from ``rng``."""

    def __init__(self) -> None:
        self.stand = Stand(HubSettings(max_lag=6, ping_interval_s=15, pong_timeout_s=40, close_timeout_s=3))
        self.block, self.index, self.payload = 1, -1, 1
        self.fates: list[int] = []  # the positions at which the fates were told, by their number from 1

    def someone(self, rng: random.Random) -> Subscriber | None:
        """A subscriber whose connection is not over, if there is one."""
        there = [item for item in self.stand.subscribers if not item.at(Stage.GONE)]
        return rng.choice(there) if there else None

    # The log and the tasks of the plane.

    def flashblock(self, rng: random.Random) -> None:
        self.index += 1
        text = self._text(rng, b"x" * rng.choice([0, 10, 120, 400, 66_000]))
        packed = rng.random() < 0.3
        body = brotli.compress(text, quality=0) if packed else text
        encoding = Encoding.BROTLI if packed else Encoding.TEXT
        hole = rng.choice([0, 0, 0, 2])
        self.stand.log.append(self.block, self.index, body=body, hole=hole, encoding=encoding, payload=self.payload)

    def _text(self, rng: random.Random, padding: bytes) -> bytes:
        """A flashblock that touches this and that."""
        log = {"address": "0x" + rng.choice(ADDRESSES).hex(), "topics": ["0x" + rng.choice(TOPICS).hex()]}
        logs = [log] if rng.random() < 0.4 else []
        calls = [bytes(5) + rng.choice(ADDRESSES) + bytes(9)] if rng.random() < 0.4 else []
        message = {
            "payload_id": str(payload_id(self.payload)),
            "index": self.index,
            "diff": {"transactions": ["0x" + call.hex() for call in calls]},
            "metadata": {"receipts": {"0x00": {"Eip1559": {"logs": logs}}}},
            "padding": padding.decode(),
        }
        return json.dumps(message).encode()

    def _filter(self, rng: random.Random) -> Filter | None:
        """Half of them want everything."""
        addresses = rng.sample(ADDRESSES, rng.randint(0, 2))
        topics = rng.sample(TOPICS, rng.randint(0, 1))
        if rng.random() < 0.5 or not (addresses or topics):
            return None
        return Filter(addresses, topics, match_all=rng.random() < 0.5)

    def next_payload(self, rng: random.Random) -> None:
        """The next block, or after a reorg another one of the same number or of one before."""
        if self.index >= 0:
            self.payload += 1
            self.block, self.index = max(1, self.block + rng.choice([1, 1, 0, -1])), -1

    def fate(self, rng: random.Random) -> None:
        """A payload lands or is dropped; the entries up to now are those of before."""
        position = self.stand.log.head
        state = rng.choice([PayloadState.LANDED, PayloadState.DROPPED])
        number = len(self.fates) + 1
        self.fates.append(position)
        self.stand.announce(fate(payload_id(number), state, self.block, None), position)

    def broadcast(self, rng: random.Random) -> None:
        if self.stand.delivering:
            self.stand.deliver(rng.randint(1, 3))
        else:
            self.stand.begin(rng.randint(1, 3))
        if rng.random() < 0.3:
            self.stand.close_lagging()

    def write(self, rng: random.Random) -> None:
        waiting = [item for item in self.stand.subscribers if item.session in self.stand.writers]
        if waiting:
            self.stand.write(rng.choice(waiting), until=rng.randint(0, 4), refetch=rng.random() < 0.8)

    def time_passes(self, rng: random.Random) -> None:
        self.stand.now += 7
        for session in list(self.stand.hub.sessions):
            self.stand.hub.sweep(session, self.stand.now)
            if rng.random() < 0.8:
                session.heard()

    def host_stops(self, rng: random.Random) -> None:
        for session in rng.sample(sorted(self.stand.hub.sessions, key=id), len(self.stand.hub.sessions) // 2):
            self.stand.hub.go_away(session, self.stand.now)

    # Subscribers.

    def connect(self, rng: random.Random) -> None:
        resume: Resume = CurrentPayload()
        way = rng.choice(["current", "block", "block", "payload"])
        if way == "block":
            resume = AfterBlock(max(0, self.block + rng.randint(-2, 1)), self.index + rng.randint(-3, 3))
        elif way == "payload" and self.index >= 0:
            resume = AfterPayload(payload_id(self.payload), rng.randint(-1, self.index))
        steady = rng.random() < 0.4
        choose = (lambda size: size) if steady else fitful(random.Random(rng.random()))
        wanted, control = self._filter(rng), rng.random() < 0.5
        subscriber = self.stand.connect(resume, rng.choice(list(Variant)), choose, wanted, control=control)
        subscriber.fates_before = len(self.fates)

    def change_pace(self, rng: random.Random) -> None:
        """Somebody stops reading, goes on slowly, or reads as it comes."""
        if subscriber := self.someone(rng):
            most = rng.choice([0, 1, 50, 2000])
            own = fitful(random.Random(rng.random()))
            subscriber.wire.choose = rng.choice([lambda size: min(size, most), own, lambda size: size])

    def ping_us(self, rng: random.Random) -> None:
        if (subscriber := self.someone(rng)) and not subscriber.at(Stage.CLOSING):
            subscriber.session.heard()
            subscriber.session.queue_pong(rng.randbytes(rng.randint(0, 5)))
            self.stand.hub.write_control(subscriber.session)

    def leave(self, rng: random.Random) -> None:
        """A close frame comes, the connection breaks, or just ends."""
        if not (subscriber := self.someone(rng)):
            return
        way = rng.choice(["close", "break", "end"])
        if way == "close":
            subscriber.session.close_received = True
            self.stand.hub.close(subscriber.session, 1000, "", self.stand.now)
        elif way == "break":
            subscriber.wire.error = BrokenPipeError()
        else:
            self.stand.hub.detach(subscriber.session)

    def tasks_of_the_dropped_end(self) -> None:
        for subscriber in self.stand.subscribers:
            if subscriber.dropped():
                self.stand.hub.detach(subscriber.session)

    # What must hold.

    def check_streams(self) -> None:
        """What arrived is a prefix of the log after the place that was asked for, in whole frames."""
        for subscriber in self.stand.subscribers:
            expected = [_text(entry) for entry in subscriber.expected(self.stand.log.entries)]
            received = _received(subscriber)
            assert received == expected[: len(received)]
            self._check_notices(subscriber)

    def _check_notices(self, subscriber: Subscriber) -> None:
        """They come to those who asked, each once, in order, behind everything that they are about."""
        data = _data(subscriber)
        notices = [(number, json.loads(frame.payload)) for number, frame in enumerate(data) if _is_notice(frame)]
        if subscriber.session.notices is None:
            assert not notices
            return
        assert [number for number, notice in notices if notice["control"] == "resumed-from"] in ([], [0])
        fates = [(at, int(item["payload_id"], 16)) for at, item in notices if item["control"] in ("landed", "dropped")]
        assert [number for _, number in fates] == sorted({number for _, number in fates})
        due = subscriber.expected(self.stand.log.entries)
        for at, number in fates:
            before = sum(not _is_notice(frame) for frame in data[:at])
            assert before >= sum(entry.position <= self.fates[number - 1] for entry in due)

    def check_groups(self) -> None:
        """Everybody is in the group of its stage, and nothing is half sent where only whole frames go."""
        hub = self.stand.hub
        heads = set(hub.heads)
        for session in hub.sessions:
            assert (session in heads) == (session.stage is Stage.HEAD)
            assert (session in hub._waiting) == (session.stage is Stage.WAITING)
            assert (session in hub._catching_up) == (session.stage is Stage.CATCHING_UP)
            assert session.at_boundary or session.stage not in (Stage.HEAD, Stage.WAITING)
            self._check_writer(session)
        assert sorted(map(id, hub.heads)) == sorted(map(id, heads))
        assert hub.filters.items == sum(item.items for item in {each.filter for each in hub.sessions} if item)
        assert heads | set(hub._waiting) | hub._catching_up <= hub.sessions
        assert self.stand.delivering or all(session.mark is hub.mark for session in heads)

    def _check_writer(self, session: Session) -> None:
        if session.stage is not Stage.CLOSING:  # a writer that is done with closing stays the last one
            assert session.has_writer == (session in self.stand.writers)
            assert session.has_writer == (session.stage is Stage.CATCHING_UP)

    def check_end(self) -> None:
        """When all sockets take everything, whoever is still there ends up with the whole suffix."""
        self.tasks_of_the_dropped_end()
        self.stand.settle()
        self.check_streams()
        self.check_groups()
        for subscriber in self.stand.subscribers:
            if subscriber.at(Stage.HEAD) or subscriber.at(Stage.WAITING):
                expected = subscriber.expected(self.stand.log.entries)
                assert _received(subscriber) == [_text(entry) for entry in expected]
                self._check_all_fates(subscriber)
            else:
                assert subscriber.at(Stage.GONE) or subscriber.at(Stage.CLOSING)

    def _check_all_fates(self, subscriber: Subscriber) -> None:
        """Whoever is still there has been told everything that happened behind its place since it came."""
        if subscriber.session.notices is not None:
            found = [json.loads(frame.payload) for frame in _data(subscriber) if _is_notice(frame)]
            told = {int(item["payload_id"], 16) for item in found if item["control"] in ("landed", "dropped")}
            behind = {number for number, at in enumerate(self.fates, 1) if at > subscriber.position}
            assert told >= {number for number in behind if number > subscriber.fates_before}


def _text(entry: Entry) -> bytes:
    return brotli.decompress(entry.body) if entry.encoding is Encoding.BROTLI else entry.body


def _received(subscriber: Subscriber) -> list[bytes]:
    """The JSON texts that arrived whole."""
    return [_unpacked(subscriber, frame) for frame in _data(subscriber) if not _is_notice(frame)]


def _unpacked(subscriber: Subscriber, frame: ParsedFrame) -> bytes:
    assert frame.opcode == (0x2 if subscriber.variant is Variant.BROTLI else 0x1)
    assert frame.rsv1 == (subscriber.variant is Variant.DEFLATE)
    return brotli.decompress(frame.text) if subscriber.variant is Variant.BROTLI else frame.text


def _data(subscriber: Subscriber) -> list[ParsedFrame]:
    """The messages that arrived whole; checks that nothing follows a close."""
    frames, rest = parse_frames(subscriber.wire.sent)
    closes = [number for number, frame in enumerate(frames) if frame.opcode == 0x8]
    assert closes in ([], [len(frames) - 1])
    assert not (closes and rest)
    return [frame for frame in frames if frame.opcode < 0x8]


def _is_notice(frame: ParsedFrame) -> bool:
    return frame.opcode == 0x1 and not frame.rsv1 and frame.payload.startswith(b'{"control"')
