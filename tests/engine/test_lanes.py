"""Lanes: bounded, in order, the newest of a kind only."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.events import Announce, CallId, Copy, SendInOrder
from appliance.engine.lanes import Lane, Parcel
from appliance.engine.parcels import NewPayloadBodies, parcel_of_announcement, parcel_of_copy, parcel_of_order
from appliance.wire.engine_answers import decode_payload
from appliance.wire.engine_bodies import new_payload_request, new_payload_request_of_assembled
from tests.engine import messages as m


def drain(lane: Lane) -> list[bytes]:
    bodies = []
    while (parcel := lane.take()) is not None:
        bodies.append(parcel.make_body())
    return bodies


def plain(body: bytes) -> Parcel:
    return parcel_of_copy(Copy(body))


def forkchoice(body: bytes) -> Parcel:
    return parcel_of_copy(Copy(body, latest_only="forkchoice"))


def setting(body: bytes) -> Parcel:
    return parcel_of_copy(Copy(body, latest_only="miner_setExtra", lasting=True, in_order=False))


def order(body: bytes, call_id: int = 1) -> Parcel:
    return parcel_of_order(SendInOrder(CallId(call_id), "alpha", body))


def test_parcels_come_out_in_order() -> None:
    lane = Lane(10)
    for body in (b"1", b"2", b"3"):
        assert lane.put(plain(body)) == []
    assert len(lane) == 3
    assert drain(lane) == [b"1", b"2", b"3"]
    assert lane.take() is None


def test_only_the_newest_forkchoice_waits_and_it_waits_behind_what_came_before() -> None:
    lane = Lane(10)
    for parcel in (forkchoice(b"f1"), plain(b"p"), forkchoice(b"f2")):
        lane.put(parcel)
    assert drain(lane) == [b"p", b"f2"]
    assert lane.dropped == 0


def test_an_order_to_build_replaces_forkchoices_and_the_order_before() -> None:
    lane = Lane(10)
    lane.put(order(b"o1", 1))
    lane.put(forkchoice(b"f"))
    assert lane.put(order(b"o2", 2)) == [CallId(1)]
    assert drain(lane) == [b"o2"]


def test_a_forkchoice_does_not_replace_an_order_to_build() -> None:
    lane = Lane(10)
    lane.put(order(b"o"))
    assert lane.put(forkchoice(b"f")) == []
    assert drain(lane) == [b"o", b"f"]


def test_a_full_lane_drops_the_oldest_that_nobody_waits_for() -> None:
    lane = Lane(3)
    for parcel in (order(b"o"), setting(b"s"), plain(b"1"), plain(b"2"), plain(b"3")):
        lane.put(parcel)
    assert drain(lane) == [b"o", b"s", b"3"]
    assert lane.dropped == 2


def test_a_lane_is_bounded_in_bytes() -> None:
    lane = Lane(100, max_bytes=10)
    for _ in range(5):
        lane.put(plain(b"xxxx"))
    assert len(lane) == 2
    lane.put(plain(b"y" * 50))
    assert len(lane) == 0
    assert lane.dropped == 6


def test_a_lasting_parcel_is_put_back_behind_the_others() -> None:
    lane = Lane(3)
    lane.put(setting(b"s1"))
    lane.put(plain(b"p"))
    failed = lane.take()
    assert failed is not None
    assert lane.put_back(failed)
    assert drain(lane) == [b"p", b"s1"]


def test_a_lasting_parcel_is_not_put_back_before_a_newer_one() -> None:
    lane = Lane(3)
    lane.put(setting(b"s1"))
    failed = lane.take()
    assert failed is not None
    lane.put(setting(b"s2"))
    assert not lane.put_back(failed)
    assert drain(lane) == [b"s2"]


def test_other_parcels_are_not_put_back() -> None:
    lane = Lane(3)
    for parcel in (plain(b"p"), forkchoice(b"f"), order(b"o")):
        assert not lane.put_back(parcel)
    assert len(lane) == 0


def test_an_announcement_is_made_once_for_all_builders() -> None:
    block = decode_payload(m.Block("b").answer(), 4)
    bodies = NewPayloadBodies()
    parcel = parcel_of_announcement(Announce(block, m.ROOT), bodies)
    assert parcel.size == len(block.body)
    assert parcel.make_body() == new_payload_request(block, m.ROOT)
    assert parcel.make_body() is parcel.make_body() is bodies.of(block, m.ROOT)
    other = m.Block("c").assembled()
    assert bodies.of(other, m.ROOT) == new_payload_request_of_assembled(other)


@given(st.lists(st.tuples(st.sampled_from(["plain", "forkchoice", "setting", "order", "take"]), st.integers(1, 9))))
def test_a_lane_stays_within_its_bounds_and_never_loses_an_order(actions: list[tuple[str, int]]) -> None:
    lane = Lane(4, max_bytes=20)
    waited: set[CallId] = set()
    for number, (action, size) in enumerate(actions):
        body = b"x" * size
        if action == "take":
            taken = lane.take()
            if taken is not None and taken.call_id is not None:
                waited.discard(taken.call_id)
        elif action == "order":
            waited -= set(lane.put(order(body, number)))
            waited.add(CallId(number))
        else:
            waited -= set(lane.put({"plain": plain, "forkchoice": forkchoice, "setting": setting}[action](body)))
        assert len(waited) <= 1
        assert len(lane) <= 4
    left = set()
    while (parcel := lane.take()) is not None:
        left |= {parcel.call_id} - {None}
    assert left == waited
