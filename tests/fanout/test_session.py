"""One subscriber's bytes: whole frames, control frames never inside another frame, one close and then nothing."""

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.payloads import PayloadId
from appliance.fanout import frames
from appliance.fanout.frames import Opcode, Variant, frame
from appliance.fanout.marks import Mark, describe
from appliance.fanout.session import Due, Session, Stage
from tests.fanout.fakes import FakeWire, ParsedFrame, fitful, parse_frames

DATA = frame(Opcode.TEXT, b"x" * 300)


NOWHERE = Mark(0)


def session(wire: FakeWire, mark: Mark = NOWHERE, skip: tuple[int, int] | None = None) -> Session:
    return Session(wire, Variant.TEXT, mark, skip, next_ping_at=10.0, drop=lambda: None)


def opcodes(wire: FakeWire) -> list[int]:
    found, rest = parse_frames(wire.sent)
    assert rest == b""
    return [item.opcode for item in found]


def test_a_whole_frame_moves_the_mark() -> None:
    wire, mark = FakeWire(), Mark(1, (7, 0))
    subscriber = session(wire)
    assert subscriber.offer([DATA], [mark]) == 1
    assert subscriber.mark is mark
    assert subscriber.at_boundary
    assert wire.sent == DATA


def test_a_frame_that_would_block_leaves_everything_as_it_was() -> None:
    before = Mark(0)
    subscriber = session(FakeWire(lambda size: 0), before)
    assert not subscriber.offer([DATA], [Mark(1)])
    assert subscriber.mark is before
    assert subscriber.at_boundary


def test_the_rest_of_a_short_write_comes_before_anything_else() -> None:
    wire = FakeWire(lambda size: min(size, 100))
    subscriber = session(wire)
    assert subscriber.offer([DATA], [Mark(1)]) == 1
    assert not subscriber.at_boundary
    subscriber.queue_pong(b"a")
    subscriber.queue_ping(0, 15)
    assert not subscriber.at_boundary
    while not subscriber.flush():
        pass
    assert opcodes(wire) == [0x1, 0xA, 0x9]
    assert subscriber.at_boundary


def test_only_the_latest_of_several_pings_is_answered() -> None:
    wire = FakeWire()
    subscriber = session(wire)
    for number in range(100):
        subscriber.queue_pong(b"%d" % number)
    assert subscriber.flush()
    assert parse_frames(wire.sent)[0] == [ParsedFrame(0xA, b"99")]


def test_a_close_goes_after_the_half_sent_frame_and_alone() -> None:
    wire = FakeWire(lambda size: min(size, 250))
    subscriber = session(wire)
    subscriber.offer([DATA], [Mark(1)])
    subscriber.queue_ping(0, 15)
    subscriber.queue_close(1001, "going away", deadline=3)
    assert subscriber.stage is Stage.CLOSING
    assert [subscriber.close_sent, subscriber.closed] == [False, False]
    assert subscriber.flush()
    assert opcodes(wire) == [0x1, 0x8]
    assert [subscriber.close_sent, subscriber.closed] == [True, False]
    subscriber.close_received = True
    assert [subscriber.closed] == [True]


def test_a_flush_without_anything_to_send_does_not_touch_the_socket() -> None:
    wire = FakeWire()
    subscriber = session(wire)
    assert subscriber.flush()
    assert wire.sends == 0
    assert not subscriber.close_sent


def test_a_broken_socket_is_the_callers_to_judge() -> None:
    wire = FakeWire()
    wire.error = BrokenPipeError()
    subscriber = session(wire)
    with pytest.raises(BrokenPipeError):
        subscriber.offer([DATA], [Mark(1)])
    subscriber.queue_pong(b"")
    with pytest.raises(BrokenPipeError):
        subscriber.flush()


def test_entries_seen_elsewhere_are_passed_over_until_the_first_new_one() -> None:
    subscriber = session(FakeWire(), skip=(7, 2))
    assert subscriber.resume_from == "block_number=7 flashblock_index=2"
    assert [subscriber.skips(key) for key in [(7, 1), (7, 2), (7, 3), (7, 0), (6, 9)]] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_place_to_resume_from_is_the_mark() -> None:
    assert session(FakeWire(), Mark(4, (7, 1))).resume_from == "block_number=7 flashblock_index=1"
    sent = session(FakeWire(), Mark(4, (7, 1), PayloadId("0x00000000000000ab")))
    assert sent.resume_from == "payload_id=0x00000000000000ab block_number=7 flashblock_index=1"
    assert session(FakeWire()).resume_from == describe(None) == ""


def test_the_longest_place_fits_a_close_frame_beside_the_longest_reason() -> None:
    place = describe((2**63 - 1, 2**31 - 1), PayloadId("0x00000000000000ab"))
    assert len(f"the log cannot be read {place}") <= 123


class TestDue:
    def test_a_ping_when_its_time_has_come(self) -> None:
        subscriber = session(FakeWire())
        assert subscriber.due(9.9, pong_timeout_s=30) is Due.NOTHING
        assert subscriber.due(10.0, pong_timeout_s=30) is Due.PING
        subscriber.queue_ping(10.0, interval_s=15)
        assert subscriber.due(10.0, pong_timeout_s=30) is Due.NOTHING
        assert subscriber.due(25.0, pong_timeout_s=30) is Due.PING

    def test_the_first_ping_without_an_answer_counts(self) -> None:
        subscriber = session(FakeWire())
        subscriber.queue_ping(10.0, interval_s=15)
        subscriber.queue_ping(25.0, interval_s=15)
        assert subscriber.due(39.9, pong_timeout_s=30) is Due.NOTHING
        assert subscriber.due(40.0, pong_timeout_s=30) is Due.PONG_OVERDUE

    def test_a_sign_of_life_starts_the_count_anew(self) -> None:
        subscriber = session(FakeWire())
        subscriber.queue_ping(10.0, interval_s=15)
        subscriber.heard()
        assert subscriber.due(24.0, pong_timeout_s=3) is Due.NOTHING
        subscriber.queue_ping(25.0, interval_s=15)
        assert subscriber.due(28.0, pong_timeout_s=3) is Due.PONG_OVERDUE

    def test_a_closing_session_has_only_its_deadline(self) -> None:
        subscriber = session(FakeWire())
        subscriber.queue_ping(10.0, interval_s=1)
        subscriber.queue_close(1013, "lagged", deadline=13.0)
        assert subscriber.due(12.9, pong_timeout_s=1) is Due.NOTHING
        assert subscriber.due(13.0, pong_timeout_s=1) is Due.CLOSE_OVERDUE

    @given(st.lists(st.tuples(st.sampled_from(["ping", "heard", "close", "wait"]), st.integers(0, 20)), max_size=30))
    def test_nothing_becomes_due_before_it_was_planned(self, steps: list[tuple[str, int]]) -> None:
        subscriber, now = session(FakeWire()), 0.0
        for step, elapsed in steps:
            now += elapsed
            if now < subscriber.next_due_at:
                assert subscriber.due(now, pong_timeout_s=7) is Due.NOTHING
            if step == "ping":
                subscriber.queue_ping(now, interval_s=5)
                subscriber.plan(7)
            elif step == "heard":
                subscriber.heard()
            elif step == "close" and subscriber.stage is not Stage.CLOSING:
                subscriber.queue_close(1001, "", deadline=now + 3)
            subscriber.plan(7)


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=400).map(lambda body: ("data", body)),
            st.binary(max_size=20).map(lambda body: ("pong", body)),
            st.just(("ping", b"")),
            st.just(("flush", b"")),
        ),
        max_size=30,
    ),
    st.integers(0, 2**32),
)
def test_any_order_of_writes_gives_whole_frames_in_that_order(steps: list[tuple[str, bytes]], seed: int) -> None:
    wire = FakeWire(fitful(random.Random(seed)))
    subscriber = session(wire)
    accepted: list[bytes] = []
    for number, (step, body) in enumerate(steps):
        if step == "data" and subscriber.flush():
            before = subscriber.mark
            subscriber.offer([frame(Opcode.TEXT, body)], [Mark(number + 1)])
            if subscriber.mark is not before:
                accepted.append(body)
        elif step == "pong":
            subscriber.queue_pong(body)
        elif step == "ping":
            subscriber.queue_ping(0, 15)
        elif step == "flush":
            subscriber.flush()
    wire.choose = lambda size: size
    assert subscriber.flush()
    found, rest = parse_frames(wire.sent)
    assert rest == b""
    assert [item.payload for item in found if item.opcode == 0x1] == accepted


def test_an_idle_session_is_small() -> None:
    assert not hasattr(session(FakeWire()), "__dict__")
    assert frames.PING == b"\x89\x00"


def test_of_several_frames_the_last_one_that_was_begun_is_remembered() -> None:
    marks = [Mark(number) for number in (1, 2, 3)]
    for taken, begun in ((0, 0), (1, 1), (len(DATA), 1), (len(DATA) + 1, 2), (2 * len(DATA), 2), (3 * len(DATA), 3)):
        wire = FakeWire(partial(min, taken))
        subscriber = session(wire)
        assert subscriber.offer([DATA] * 3, marks) == begun
        assert subscriber.at_boundary == (taken % len(DATA) == 0)
        assert not begun or subscriber.mark is marks[begun - 1]
        wire.choose = lambda size: size
        assert subscriber.flush()
        assert wire.sent == DATA * begun
