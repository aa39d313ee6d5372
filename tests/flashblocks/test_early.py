"""The buffer for flashblocks that overtake their announcement."""

import pytest

from appliance.flashblocks import early as early_module
from appliance.flashblocks.commands import Dropped, Paused, Reason
from appliance.flashblocks.early import MAX_AGE_S, MAX_PAYLOADS, EarlyBuffer
from tests.flashblocks.making import make_flashblock, payload_id

P = payload_id(1)


def test_what_waits_is_handed_over_whole_and_once() -> None:
    buffer = EarlyBuffer(whole=True)
    for index in range(3):
        assert buffer.add("alpha", make_flashblock(P, index), 0.0) == []
    assert len(buffer) == 3
    stream = buffer.pop("alpha", P)
    assert stream is not None
    assert [flashblock.index for flashblock in stream.flashblocks] == [0, 1, 2]
    assert buffer.pop("alpha", P) is None
    assert len(buffer) == 0


def test_builders_with_the_same_payload_id_are_kept_apart() -> None:
    buffer = EarlyBuffer(whole=True)
    buffer.add("alpha", make_flashblock(P, 0, "a"), 0.0)
    buffer.add("beta", make_flashblock(P, 0, "b"), 0.0)
    stream = buffer.pop("beta", P)
    assert stream is not None
    assert (stream.builder, stream.flashblocks) == ("beta", [make_flashblock(P, 0, "b")])


def test_structural_rules_hold_already_here() -> None:
    buffer = EarlyBuffer(whole=True)
    buffer.add("alpha", make_flashblock(P, 0), 0.0)
    assert buffer.add("alpha", make_flashblock(P, 2), 0.0) == [
        Dropped(Reason.GAP, "alpha", P, 2),
        Paused(Reason.GAP, "alpha", P, 2, published=False),
    ]
    assert buffer.add("alpha", make_flashblock(P, 3), 0.0) == [Dropped(Reason.GAP, "alpha", P, 3)]
    notes = buffer.add("alpha", make_flashblock(P, 0, "other"), 0.0)
    assert notes == [
        Dropped(Reason.EQUIVOCATION, "alpha", P, 0),
        Paused(Reason.EQUIVOCATION, "alpha", P, 0, published=False),
    ]


def test_a_newer_payload_pushes_out_the_same_builders_oldest() -> None:
    buffer = EarlyBuffer(whole=True)
    buffer.add("beta", make_flashblock(P, 0), 0.0)
    for number in range(MAX_PAYLOADS):
        assert buffer.add("alpha", make_flashblock(payload_id(number), 0), float(number)) == []
    notes = buffer.add("alpha", make_flashblock(payload_id(99), 0), 9.0)
    assert notes == [Dropped(Reason.UNANNOUNCED, "alpha", payload_id(0), 0, 1)]
    assert buffer.pop("alpha", payload_id(0)) is None
    assert buffer.pop("alpha", payload_id(99)) is not None
    assert buffer.pop("beta", P) is not None


def test_a_payload_has_room_for_so_many_flashblocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_module, "MAX_FLASHBLOCKS", 2)
    buffer = EarlyBuffer(whole=True)
    for index in range(2):
        assert buffer.add("alpha", make_flashblock(P, index), 0.0) == []
    assert buffer.add("alpha", make_flashblock(P, 2), 0.0) == [Dropped(Reason.UNANNOUNCED, "alpha", P, 2)]
    assert len(buffer) == 2


def test_a_payload_has_room_for_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_module, "MAX_BYTES", len(make_flashblock(P, 0).body))
    buffer = EarlyBuffer(whole=True)
    assert buffer.add("alpha", make_flashblock(P, 0), 0.0) == []
    assert buffer.add("alpha", make_flashblock(P, 1), 0.0) == [Dropped(Reason.UNANNOUNCED, "alpha", P, 1)]


def test_what_is_never_announced_is_given_up_after_a_while() -> None:
    buffer = EarlyBuffer(whole=True)
    buffer.add("alpha", make_flashblock(P, 0), 0.0)
    buffer.add("alpha", make_flashblock(P, 1), 1.0)
    buffer.add("alpha", make_flashblock(payload_id(2), 0), 5.0)
    assert buffer.expire(MAX_AGE_S) == []
    assert buffer.expire(MAX_AGE_S + 0.1) == [Dropped(Reason.UNANNOUNCED, "alpha", P, 0, 2)]
    assert len(buffer) == 1


def test_a_payload_of_which_nothing_was_taken_is_given_up_silently() -> None:
    buffer = EarlyBuffer(whole=True)
    assert buffer.add("alpha", make_flashblock(P, 5), 0.0) != []
    assert buffer.expire(2 * MAX_AGE_S) == []
