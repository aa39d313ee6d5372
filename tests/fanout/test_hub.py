"""Who is at the head, who catches up, who goes: scenarios. The promise over all of them is in test_promise.py."""

from appliance.domain.positions import AfterBlock, AfterPayload
from appliance.fanout.frames import Variant
from appliance.fanout.hub import GOING_AWAY, HubSettings
from appliance.fanout.session import Stage
from tests.fanout.fakes import messages, parse_frames, payload_id
from tests.fanout.support import Stand, Subscriber


def keys(subscriber: Subscriber, stand: Stand) -> list[tuple[int, int]]:
    by_body = {entry.body: entry.key for entry in stand.log.entries}
    return [by_body[body] for body in subscriber.received]


def close_of(subscriber: Subscriber) -> tuple[int, str]:
    frames, rest = parse_frames(subscriber.wire.sent)
    assert rest == b""
    assert frames[-1].opcode == 0x8
    assert [frame.opcode for frame in frames].count(0x8) == 1
    payload = frames[-1].payload
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def test_a_new_entry_reaches_everybody_at_the_head() -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(3)]
    stand.publish((1, 0))
    assert [keys(subscriber, stand) for subscriber in subscribers] == [[(1, 0)]] * 3
    assert stand.metrics.sent_messages.value == 3
    assert stand.metrics.bytes_broadcasted.value == sum(len(item.wire.sent) for item in subscribers)


def test_a_subscriber_of_an_empty_log_is_at_the_head_at_once() -> None:
    stand = Stand()
    assert stand.connect().at(Stage.HEAD)
    assert not stand.writers


def test_several_entries_that_wait_are_sent_in_one_go() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.publish((1, 0), (1, 1), (1, 2))
    assert keys(subscriber, stand) == [(1, 0), (1, 1), (1, 2)]
    assert subscriber.wire.sends == 1
    assert stand.metrics.sent_messages.value == 3


def test_without_a_position_the_current_payload_comes_from_its_start() -> None:
    stand = Stand()
    stand.publish((1, 0), (1, 1), (2, 0), (2, 1))
    subscriber = stand.connect()
    assert subscriber.at(Stage.CATCHING_UP)
    stand.settle()
    assert keys(subscriber, stand) == [(2, 0), (2, 1)]
    assert subscriber.at(Stage.HEAD)


def test_resuming_gives_what_comes_strictly_after() -> None:
    stand = Stand()
    stand.publish((1, 0), (1, 1), (2, 0))
    by_block = stand.connect(AfterBlock(1, 0))
    by_payload = stand.connect(AfterPayload(payload_id(1), 1))
    from_start = stand.connect(AfterBlock(1, -1))
    stand.publish((2, 1))
    stand.settle()
    assert keys(by_block, stand) == [(1, 1), (2, 0), (2, 1)]
    assert keys(by_payload, stand) == [(2, 0), (2, 1)]
    assert keys(from_start, stand) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_short_write_leaves_the_head_and_comes_back() -> None:
    stand = Stand()
    subscriber = stand.connect(choose=lambda size: 5)
    stand.publish((1, 0))
    assert subscriber.at(Stage.CATCHING_UP)
    assert stand.writers[subscriber.session] is True
    assert stand.hub.statistics()["catching_up"] == 1
    stand.publish((1, 1))
    assert len(subscriber.wire.sent) == 5
    stand.settle()
    assert keys(subscriber, stand) == [(1, 0), (1, 1)]
    assert subscriber.at(Stage.HEAD)
    assert stand.metrics.catch_ups.value == 1


def test_one_that_would_block_is_served_from_the_log_later() -> None:
    stand = Stand()
    slow, fast = stand.connect(choose=lambda size: 0), stand.connect()
    stand.publish((1, 0), (1, 1))
    stand.publish((2, 0))
    assert (keys(slow, stand), len(keys(fast, stand))) == ([], 3)
    stand.settle()
    assert keys(slow, stand) == [(1, 0), (1, 1), (2, 0)]


def test_a_writer_does_not_run_ahead_of_the_broadcast() -> None:
    stand = Stand()
    stand.publish((1, 0))
    subscriber = stand.connect()
    stand.log.append(1, 1)  # in the log, not yet broadcast
    for _ in range(5):
        stand.write(subscriber)
    assert keys(subscriber, stand) == [(1, 0)]
    assert subscriber.at(Stage.HEAD)
    stand.begin()
    stand.deliver()
    assert keys(subscriber, stand) == [(1, 0), (1, 1)]


def test_one_that_rejoins_during_a_broadcast_gets_the_entry_once() -> None:
    stand = Stand()
    others = [stand.connect() for _ in range(3)]
    stand.log.append(1, 0)
    stand.begin()
    stand.deliver(sessions=1)
    late = stand.connect()  # catches up with the entry that is being broadcast
    for _ in range(5):
        stand.write(late)
    assert late.at(Stage.HEAD)
    stand.settle()
    assert [keys(subscriber, stand) for subscriber in [*others, late]] == [[(1, 0)]] * 4


def test_one_that_leaves_and_rejoins_during_a_broadcast_gets_the_entry_once() -> None:
    stand = Stand()
    stand.connect()
    restless = stand.connect(choose=lambda size: 0)
    stand.log.append(1, 0)
    stand.begin()
    stand.deliver(sessions=1)
    restless.session.queue_pong(b"")
    stand.hub.write_control(restless.session)  # the pong would block
    assert restless.at(Stage.CATCHING_UP)
    restless.wire.choose = lambda size: size
    for _ in range(5):
        stand.write(restless)
    assert restless.at(Stage.HEAD)
    stand.deliver()
    assert keys(restless, stand) == [(1, 0)]


def test_one_that_is_ahead_of_the_broadcast_waits_for_what_is_new_to_it() -> None:
    stand = Stand()
    stand.log.append(1, 0)
    stand.log.append(1, 1)
    ahead = stand.connect(AfterBlock(1, 0))  # the broadcast of (1, 0) has not begun
    assert ahead.at(Stage.CATCHING_UP) or ahead.at(Stage.WAITING)
    stand.begin(limit=1)
    stand.deliver()
    assert keys(ahead, stand) == []
    stand.settle()
    assert keys(ahead, stand) == [(1, 1)]


def test_a_batch_of_which_one_subscriber_wants_the_end() -> None:
    stand = Stand()
    stand.log.append(1, 0)
    ahead = stand.connect(AfterBlock(1, 0))
    everything = stand.connect(AfterBlock(1, -1))
    stand.log.append(1, 1)
    stand.settle()
    assert keys(ahead, stand) == [(1, 1)]
    assert keys(everything, stand) == [(1, 0), (1, 1)]


def test_a_subscriber_from_a_host_that_is_further_gets_nothing_twice() -> None:
    stand = Stand()
    stand.publish((1, 0))
    traveller = stand.connect(AfterBlock(1, 2))
    assert traveller.at(Stage.WAITING)
    stand.publish((1, 1))
    stand.publish((1, 2), (1, 3))
    stand.settle()
    stand.publish((1, 4))
    assert keys(traveller, stand) == [(1, 3), (1, 4)]
    assert traveller.at(Stage.HEAD)


def test_a_waiting_subscriber_resumes_from_what_it_saw_elsewhere() -> None:
    stand = Stand()
    stand.publish((1, 0))
    traveller = stand.connect(AfterBlock(1, 2))
    stand.publish((1, 1))
    stand.hub.go_away(traveller.session, now=0)
    assert close_of(traveller) == (1001, "going away block_number=1 flashblock_index=2")


def test_positions_may_have_holes() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.log.append(1, 0, hole=5)
    stand.log.append(1, 1, hole=2)
    late = stand.connect(AfterBlock(1, 0))
    stand.settle()
    assert keys(subscriber, stand) == [(1, 0), (1, 1)]
    assert keys(late, stand) == [(1, 1)]


def test_variants_are_served_side_by_side() -> None:
    stand = Stand()
    text, brotli = stand.connect(), stand.connect(variant=Variant.BROTLI)
    stand.publish((1, 0))
    assert [frame.opcode for frame in parse_frames(text.wire.sent)[0]] == [0x1]
    assert [frame.opcode for frame in parse_frames(brotli.wire.sent)[0]] == [0x2]
    assert stand.hub.statistics()["at_head"] == {"text": 1, "brotli": 1, "deflate": 0}


def test_a_broken_connection_is_dropped_and_disturbs_nobody() -> None:
    stand = Stand()
    broken, sound = stand.connect(), stand.connect()
    broken.wire.error = ConnectionResetError()
    stand.publish((1, 0))
    assert broken.dropped()
    assert stand.metrics.failed_messages.value == 1
    assert keys(sound, stand) == [(1, 0)]
    stand.publish((1, 1))
    assert stand.metrics.failed_messages.value == 1


def test_one_that_lags_beyond_the_bound_is_closed_with_its_place() -> None:
    stand = Stand(HubSettings(max_lag=3, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    slow = stand.connect()
    stand.publish((1, 0))
    slow.wire.choose = lambda size: 0
    stand.publish((1, 1))
    stand.publish((1, 2))
    stand.publish((1, 3))
    assert slow.at(Stage.CATCHING_UP)
    stand.publish((1, 4))
    assert slow.at(Stage.CLOSING)
    assert stand.metrics.lagged_connections.value == 1
    stand.settle()
    assert close_of(slow) == (1013, "lagged payload_id=0x0000000000000001 block_number=1 flashblock_index=0")
    assert keys(slow, stand) == [(1, 0)]


def test_a_backlog_that_was_asked_for_is_not_lag() -> None:
    stand = Stand(HubSettings(max_lag=3, ping_interval_s=15, pong_timeout_s=30, close_timeout_s=3))
    stand.publish(*((1, index) for index in range(20)))
    late = stand.connect(AfterBlock(1, -1), choose=lambda size: 0)
    stand.publish((2, 0))
    stand.publish((2, 1))
    stand.publish((2, 2))
    assert late.at(Stage.CATCHING_UP)
    stand.publish((2, 3))
    assert late.at(Stage.CLOSING)


def test_a_frame_that_is_half_sent_is_finished_before_the_close() -> None:
    stand = Stand()
    slow = stand.connect(choose=lambda size: 3)
    stand.publish((1, 0))
    stand.hub.close(slow.session, GOING_AWAY, "going away", now=0)
    stand.settle()
    assert close_of(slow) == (1001, "going away payload_id=0x0000000000000001 block_number=1 flashblock_index=0")
    assert keys(slow, stand) == [(1, 0)]


def test_closing_twice_says_goodbye_once() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.hub.go_away(subscriber.session, now=0)
    stand.hub.lagged(subscriber.session, now=0)
    assert close_of(subscriber) == (1001, "going away")


def test_the_end_comes_when_both_have_said_goodbye() -> None:
    stand = Stand()
    subscriber = stand.connect()
    subscriber.session.close_received = True
    stand.hub.close(subscriber.session, 1000, "", now=0)
    assert subscriber.dropped()
    assert close_of(subscriber)[0] == 1000


def test_an_answer_to_a_close_waits_for_the_writer() -> None:
    stand = Stand()
    subscriber = stand.connect(choose=lambda size: 3)
    stand.publish((1, 0))
    subscriber.session.close_received = True
    stand.hub.close(subscriber.session, None, "", now=0)
    assert not subscriber.dropped()
    stand.settle()
    assert subscriber.dropped()
    assert parse_frames(subscriber.wire.sent)[0][-1].payload == b""


def test_a_close_that_blocks_gets_a_writer_and_a_deadline() -> None:
    stand = Stand()
    subscriber = stand.connect(choose=lambda size: 0)
    stand.hub.go_away(subscriber.session, now=0)
    assert subscriber.session in stand.writers
    stand.hub.sweep(subscriber.session, now=2.9)
    assert not subscriber.dropped()
    stand.hub.sweep(subscriber.session, now=3)
    assert subscriber.dropped()


def test_pings_are_sent_when_due() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.hub.sweep(subscriber.session, now=14.9)
    assert subscriber.wire.sent == b""
    stand.hub.sweep(subscriber.session, now=15)
    stand.hub.sweep(subscriber.session, now=16)
    assert subscriber.wire.sent == b"\x89\x00"


def test_one_that_does_not_answer_is_dropped_and_counted_once() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.hub.sweep(subscriber.session, now=15)
    stand.hub.sweep(subscriber.session, now=44.9)
    assert not subscriber.dropped()
    stand.hub.sweep(subscriber.session, now=45)
    stand.hub.sweep(subscriber.session, now=46)
    assert subscriber.dropped()
    assert stand.metrics.client_pong_disconnects.value == 1


def test_a_turn_of_catching_up_that_begins_late_still_does_one_step() -> None:
    """While the engine is busy a turn may begin when its time is over already: all of them would wait for ever."""
    stand = Stand()
    stand.publish(*((1, index) for index in range(30)))
    late = stand.connect(AfterBlock(1, -1))
    for received in range(3, 31, 3):
        stand.write(late, until=-1)  # finds that it needs entries, and gets three
        stand.write(late, until=-1)
        assert len(late.received) == received
    stand.write(late, until=-1)
    assert late.at(Stage.HEAD)


def test_a_ping_to_a_stalled_reader_waits_its_turn() -> None:
    stand = Stand()
    subscriber = stand.connect(choose=lambda size: 3)
    stand.publish((1, 0))
    stand.hub.sweep(subscriber.session, now=15)
    assert len(subscriber.wire.sent) == 3
    stand.settle()
    assert [frame.opcode for frame in parse_frames(subscriber.wire.sent)[0]] == [0x1, 0x9]


def test_who_is_gone_is_forgotten() -> None:
    stand = Stand()
    subscriber = stand.connect()
    stand.hub.detach(subscriber.session)
    stand.hub.detach(subscriber.session)
    stand.publish((1, 0))
    assert subscriber.wire.sent == b""
    assert stand.hub.sessions == set()
    counts = stand.metrics.values()
    assert (counts["new_connections"], counts["closed_connections"], counts["active_connections"]) == (1, 1, 0)


def test_statistics_say_where_everybody_stands() -> None:
    stand = Stand()
    stand.connect()
    slow = stand.connect()
    stand.publish((7, 0))
    slow.wire.choose = lambda size: 0
    stand.publish((7, 1))
    stand.publish((7, 2))
    stand.connect(AfterBlock(9, 0))
    assert stand.hub.statistics() == {
        "position": 3,
        "resume_from": "payload_id=0x0000000000000007 block_number=7 flashblock_index=2",
        "subscribers": 3,
        "at_head": {"text": 1, "brotli": 0, "deflate": 0},
        "filters": 0,
        "waiting": 1,
        "catching_up": 1,
        "max_lag": 2,
        "lag": {"p50": 0, "p90": 0, "p99": 0, "max": 0},
    }


def test_a_slice_ends_in_time_and_serves_one_at_least() -> None:
    stand = Stand()
    subscribers = [stand.connect() for _ in range(10)]
    stand.log.append(1, 0)
    stand.begin()
    served = []
    while stand.rounds:
        stand.deliver(sessions=3)
        served.append(sum(bool(messages(subscriber.wire.sent)) for subscriber in subscribers))
    assert served == [3, 6, 9, 10]
