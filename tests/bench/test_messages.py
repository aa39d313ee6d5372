"""Messages that carry their own number."""

import json

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.wire import flashblock as wire
from bench.messages import PREFIX_BYTES, flashblock, numbered, place, sequence_of

BARE = len(numbered(0, 0))


@given(st.integers(0, 2**40))
def test_the_number_is_in_the_first_bytes(sequence: int) -> None:
    assert sequence_of(numbered(sequence, 1000)[:PREFIX_BYTES]) == sequence


@given(st.integers(0, 10_000), st.integers(BARE + 4, 50_000))
def test_a_message_has_the_size_that_was_asked_for(sequence: int, size: int) -> None:
    assert abs(len(numbered(sequence, size)) - size) <= 8  # block number and gas have a digit more or less


def test_the_appliance_takes_it_for_a_flashblock() -> None:
    found = wire.decode(numbered(13, 20_480), Encoding.TEXT)
    assert isinstance(found, Flashblock)
    assert (found.payload_id, found.index, found.block_number) == (*place(13), 2)
    assert place(13) == ("0x0000000000000002", 3)


def test_a_stream_with_one_flashblock_a_payload_counts_payloads() -> None:
    body = flashblock("0x0000000000000007", 0, 7, 2000)
    assert sequence_of(body, indices=1) == 6
    assert json.loads(body)["metadata"] == {"block_number": 7}
