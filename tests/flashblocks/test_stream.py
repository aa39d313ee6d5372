"""Structural rules of one builder's stream of one payload."""

from dataclasses import replace

import pytest

from appliance.domain.flashblocks import FlashblockBase
from appliance.flashblocks import stream as stream_module
from appliance.flashblocks.commands import Reason
from appliance.flashblocks.stream import BuilderStream
from tests.flashblocks.making import (
    OTHER_PARENT,
    PARENT,
    TIMESTAMP,
    hash_of,
    make_base,
    make_flashblock,
    payload_id,
)

P = payload_id(1)


def new_stream(*, whole: bool = True) -> BuilderStream:
    return BuilderStream("alpha", P, whole=whole)


def filled(count: int, *, whole: bool = True) -> BuilderStream:
    stream = new_stream(whole=whole)
    for index in range(count):
        assert stream.take(make_flashblock(P, index), 0.0) is None
    return stream


def test_contiguous_flashblocks_are_kept_with_their_hashes_and_arrivals() -> None:
    stream = new_stream()
    for index in range(3):
        assert stream.take(make_flashblock(P, index), 10.0 + index) is None
    assert [flashblock.index for flashblock in stream.flashblocks] == [0, 1, 2]
    assert stream.block_hashes == [hash_of(f"{P}/{index}/") for index in range(3)]
    assert stream.arrivals == [10.0, 11.0, 12.0]
    assert stream.refused is None


def test_a_gap_is_ignored_and_state_is_kept() -> None:
    stream = filled(2)
    assert [stream.take(make_flashblock(P, 3), 0.0), stream.gapped] == [Reason.GAP, True]
    assert [stream.take(make_flashblock(P, 2), 0.0), stream.gapped] == [None, False]
    assert stream.take(make_flashblock(P, 3), 0.0) is None
    assert len(stream.flashblocks) == 4


def test_the_same_body_again_is_a_duplicate() -> None:
    stream = filled(2)
    assert stream.take(make_flashblock(P, 0), 0.0) is Reason.DUPLICATE
    assert stream.take(make_flashblock(P, 2), 0.0) is None


def test_another_body_for_an_index_stops_the_stream() -> None:
    stream = filled(2)
    assert stream.take(make_flashblock(P, 1, "other"), 0.0) is Reason.EQUIVOCATION
    assert stream.take(make_flashblock(P, 2), 0.0) is Reason.PAUSED
    assert [flashblock.body for flashblock in stream.flashblocks] == [
        make_flashblock(P, index).body for index in range(2)
    ]


def test_base_may_be_repeated_when_it_is_equal() -> None:
    stream = filled(1)
    assert stream.take(make_flashblock(P, 1, base=make_base()), 0.0) is None


def test_base_must_not_change() -> None:
    stream = filled(1)
    changed = make_base(number=101)
    assert stream.take(make_flashblock(P, 1, base=changed), 0.0) is Reason.BASE_CHANGED
    assert stream.refused is Reason.BASE_CHANGED


def without_base() -> BuilderStream:
    stream = new_stream(whole=False)
    assert stream.take(replace(make_flashblock(P, 0), base=None), 0.0) is None
    return stream


def test_index_0_without_base_is_taken_only_where_blocks_need_not_be_whole() -> None:
    assert new_stream().take(replace(make_flashblock(P, 0), base=None), 0.0) is Reason.BASE_MISSING
    stream = without_base()
    assert stream.take(make_flashblock(P, 1), 0.0) is None
    assert stream.take(make_flashblock(P, 2, base=make_base()), 0.0) is Reason.BASE_CHANGED


def test_a_missing_diff_is_taken_only_where_blocks_need_not_be_whole() -> None:
    bare = replace(make_flashblock(P, 0), diff=None)
    assert new_stream().take(bare, 0.0) is Reason.DIFF_MISSING
    stream = new_stream(whole=False)
    assert stream.take(bare, 0.0) is None
    assert stream.block_hashes == [""]


def test_a_missing_block_number_is_that_of_index_0() -> None:
    stream = filled(1)
    assert stream.take(make_flashblock(P, 1, number=None), 0.0) is None
    assert stream.flashblocks[1].block_number == stream.flashblocks[0].block_number


def test_index_0_needs_a_block_number_and_it_must_not_change() -> None:
    assert new_stream().take(make_flashblock(P, 0, number=None), 0.0) is Reason.BLOCK_NUMBER
    assert filled(1).take(make_flashblock(P, 1, number=101), 0.0) is Reason.BLOCK_NUMBER


@pytest.mark.parametrize(
    ("base", "verdict"),
    [
        (make_base(), None),
        (make_base(parent_hash=PARENT.upper().replace("0X", "0x")), None),
        (make_base(parent_hash=OTHER_PARENT), Reason.WRONG_BUILD),
        (make_base(timestamp=TIMESTAMP + 2), Reason.WRONG_BUILD),
    ],
)
def test_base_must_be_of_the_build_whichever_comes_first(base: FlashblockBase, verdict: Reason | None) -> None:
    announced_first = new_stream()
    announced_first.bind(PARENT, TIMESTAMP)
    assert announced_first.take(make_flashblock(P, 0, base=base), 0.0) is verdict
    early = new_stream()
    assert early.take(make_flashblock(P, 0, base=base), 0.0) is None
    early.bind(PARENT, TIMESTAMP)
    assert early.refused is verdict
    assert bool(early.flashblocks) is (verdict is None)


def test_a_payload_has_a_bound_of_flashblocks_and_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_FLASHBLOCKS", 3)
    assert filled(3).take(make_flashblock(P, 3), 0.0) is Reason.TOO_MUCH
    monkeypatch.setattr(stream_module, "MAX_BYTES", 3 * len(make_flashblock(P, 0).body) - 1)
    assert filled(2).take(make_flashblock(P, 2), 0.0) is Reason.TOO_MUCH


def test_refusing_forgets_what_was_not_validated() -> None:
    stream = filled(4)
    stream.validated = 2
    stream.refuse(Reason.INVALID)
    assert len(stream.flashblocks) == 2
    assert stream.take(make_flashblock(P, 4), 0.0) is Reason.PAUSED


def test_after_the_fence_hashes_are_remembered_in_order_without_bodies() -> None:
    stream = filled(2)
    stream.flashblocks.clear()
    for index in (2, 4, 3):
        stream.note_late(make_flashblock(P, index))
    assert stream.block_hashes == [hash_of(f"{P}/{index}/") for index in range(4)]
    assert (stream.flashblocks, stream.highest_index) == ([], 4)
