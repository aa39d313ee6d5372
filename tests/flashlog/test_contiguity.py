import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import LogError, OutOfOrderError
from appliance.domain.payloads import PayloadState
from appliance.flashlog.contiguity import GREATEST_NUMBER, HeldPayload, admit, check_transition
from tests.flashlog.support import flashblock, payload_id, without_number

HELD = HeldPayload(block_number=1007, entries=3)


def test_a_payload_starts_with_index_0() -> None:
    assert admit(None, flashblock(7, 0)) == 1007


@pytest.mark.parametrize("index", [-1, 1, 2, 2**70])
def test_a_payload_does_not_start_with_another_index(index: int) -> None:
    with pytest.raises(OutOfOrderError, match=rf"flashblock {index} of payload 0x0{{15}}7: expected index 0"):
        admit(None, flashblock(7, index))


def test_the_next_index_follows() -> None:
    assert admit(HELD, flashblock(7, 3)) == 1007


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_index_that_is_held_is_not_appended(index: int) -> None:
    assert admit(HELD, flashblock(7, index)) is None


@pytest.mark.parametrize("index", [-1, 4, 5])
def test_a_gap_is_refused(index: int) -> None:
    with pytest.raises(OutOfOrderError, match="expected index 3"):
        admit(HELD, flashblock(7, index))


def test_the_block_number_of_the_payload_stands_in_for_a_missing_one() -> None:
    assert admit(HELD, without_number(flashblock(7, 3))) == 1007


def test_index_0_needs_a_block_number() -> None:
    with pytest.raises(OutOfOrderError, match="it has no block number"):
        admit(None, without_number(flashblock(7, 0)))


def test_a_payload_has_one_block_number() -> None:
    with pytest.raises(OutOfOrderError, match="block number 1008 is not the payload's 1007"):
        admit(HELD, flashblock(7, 3, block=1008))


@pytest.mark.parametrize("number", [-1, GREATEST_NUMBER + 1])
def test_a_block_number_fits_into_the_column(number: int) -> None:
    with pytest.raises(OutOfOrderError, match="out of range"):
        admit(None, flashblock(7, 0, block=number))
    assert admit(None, flashblock(7, 0, block=GREATEST_NUMBER)) == GREATEST_NUMBER


@given(st.lists(st.integers(-1, 6)))
def test_whatever_comes_what_is_admitted_is_contiguous(indices: list[int]) -> None:
    admitted: list[int] = []
    for index in indices:
        held = HeldPayload(1007, len(admitted)) if admitted else None
        try:
            if admit(held, flashblock(7, index)) is not None:
                admitted.append(index)
        except OutOfOrderError:
            assert index not in admitted
    assert admitted == list(range(len(admitted)))


BUILDING, SEALED, LANDED, DROPPED = PayloadState


@pytest.mark.parametrize(
    ("current", "allowed"),
    [
        (BUILDING, {BUILDING, SEALED, LANDED, DROPPED}),
        (SEALED, {SEALED, LANDED, DROPPED}),
        (LANDED, {LANDED, DROPPED}),
        (DROPPED, {LANDED, DROPPED}),
    ],
)
def test_states_go_forward_and_a_reorg_changes_its_mind(current: PayloadState, allowed: set[PayloadState]) -> None:
    for wanted in PayloadState:
        if wanted in allowed:
            check_transition(payload_id(7), current, wanted)
        else:
            with pytest.raises(LogError, match=f"is {current.value} and cannot become {wanted.value}"):
                check_transition(payload_id(7), current, wanted)
