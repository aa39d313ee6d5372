"""The sequence machine in execution mode: nothing is shown that the EL did not call VALID."""

import json
from itertools import pairwise

import pytest

from appliance.domain.payloads import PayloadStatus
from appliance.flashblocks import sequence
from appliance.flashblocks.assembly import assemble
from appliance.flashblocks.commands import Reason
from appliance.flashblocks.sequence import RETRY_DELAY_S, VALIDATION_TRIES
from tests.flashblocks.making import OTHER_PARENT, make_base, make_flashblock, payload_id
from tests.flashblocks.playbook import P, Playbook

Q = payload_id(2)
INVALID, SYNCING = PayloadStatus.INVALID, PayloadStatus.SYNCING


def begun(*builders: str) -> Playbook:
    book = Playbook(execution=True)
    book.begin(1, *builders)
    return book


def test_each_flashblock_is_shown_when_the_block_so_far_is_valid() -> None:
    book = begun()
    first = book.send(0)
    assert book.shown == []
    assert book.to_validate[0].payload == assemble([first], builder="alpha")
    book.verdict()
    assert book.shown == [("alpha", 0)]
    book.appended()
    second = book.send(1)
    assert book.to_validate[1].payload == assemble([first, second], builder="alpha")
    book.verdict()
    assert book.shown == [("alpha", 0), ("alpha", 1)]


def test_validations_go_one_at_a_time_in_order_while_flashblocks_pile_up() -> None:
    book = begun()
    for index in range(4):
        book.send(index)
    assert [question.payload.flashblocks for question in book.to_validate] == [1]
    for count in range(2, 5):
        book.verdict()
        assert book.to_validate[-1].payload.flashblocks == count
    book.verdict()
    assert len(book.to_validate) == 4


def test_validation_goes_on_while_the_log_is_slow() -> None:
    book = begun()
    for index in range(3):
        book.send(index)
        book.verdict()
    assert book.shown == [("alpha", 0)]
    book.appended()
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]


def test_the_el_is_not_asked_before_it_confirmed_the_build() -> None:
    book = Playbook(execution=True)
    book.start(1)
    book.join(1)
    book.send(0)
    assert book.to_validate == []
    book.confirm(1)
    assert len(book.to_validate) == 1


def test_a_flashblock_under_validation_when_getpayload_comes_is_not_shown() -> None:
    book = begun()
    book.send(0)
    book.verdict()
    book.appended()
    book.send(1)
    sealed = book.seal()
    book.verdict()
    assert book.shown == [("alpha", 0)]
    assert sealed is not None
    assert (sealed.flashblocks, sealed.validated) == (1, True)
    assert (Reason.UNPUBLISHED, "alpha", 1) in book.dropped
    assert len(book.to_validate) == 2


def test_a_first_flashblock_under_validation_when_getpayload_comes_leaves_nothing() -> None:
    book = begun()
    book.send(0)
    assert book.seal() is None
    book.verdict()
    assert (book.shown, book.states) == ([], [])


@pytest.mark.parametrize("status", [INVALID, PayloadStatus.INVALID_BLOCK_HASH])
def test_an_invalid_flashblock_ends_its_stream(status: PayloadStatus) -> None:
    book = begun()
    book.send(0)
    book.verdict()
    book.appended()
    book.send(1)
    book.send(2)
    book.verdict(status)
    book.send(3)
    assert book.shown == [("alpha", 0)]
    assert len(book.to_validate) == 2
    assert book.paused == [(Reason.INVALID, "alpha")]


def test_when_the_first_flashblock_is_invalid_another_builder_leads() -> None:
    book = begun("alpha", "beta")
    book.send(0, "alpha")
    book.send(0, "beta")
    book.verdict(INVALID)
    assert book.to_validate[-1].payload.builder == "beta"
    book.verdict()
    assert book.shown == [("beta", 0)]


def test_when_a_later_flashblock_is_invalid_nobody_takes_over() -> None:
    book = begun("alpha", "beta")
    book.send(0, "alpha")
    book.verdict()
    book.appended()
    book.send(0, "beta")
    book.send(1, "beta")
    book.send(1, "alpha")
    book.verdict(INVALID)
    assert book.shown == [("alpha", 0)]
    assert len(book.to_validate) == 2


@pytest.mark.parametrize("status", [SYNCING, PayloadStatus.ACCEPTED, None])
def test_no_verdict_is_not_valid_and_is_asked_for_again_after_a_while(status: PayloadStatus | None) -> None:
    book = begun()
    book.send(0)
    assert book.to_validate[0].delay_s == 0
    book.verdict(status)
    assert book.shown == []
    assert [question.delay_s for question in book.to_validate] == [0, RETRY_DELAY_S]
    book.verdict()
    assert book.shown == [("alpha", 0)]
    book.send(1)
    assert book.to_validate[-1].delay_s == 0


def test_after_some_tries_without_a_verdict_the_stream_ends() -> None:
    book = begun()
    book.send(0)
    for _ in range(VALIDATION_TRIES):
        book.verdict(SYNCING)
    assert len(book.to_validate) == VALIDATION_TRIES
    assert book.paused == [(Reason.NOT_VALIDATED, "alpha")]
    book.send(1)
    assert book.shown == []


def test_a_replaced_build_is_no_longer_validated_nor_shown() -> None:
    book = begun()
    book.send(0)
    book.start(2)
    book.verdict()
    book.send(1)
    assert (book.shown, len(book.to_validate)) == ([], 1)


def test_a_slow_verdict_on_an_old_build_does_not_hold_up_the_new_one() -> None:
    book = begun()
    book.send(0)
    book.begin(2, payload=Q)
    book.send(0, payload=Q)
    old, new = book.to_validate
    assert (old.payload.payload_id, new.payload.payload_id) == (P, Q)
    book.sequence.validated(new.validation_id, PayloadStatus.VALID)
    book.sequence.validated(old.validation_id, PayloadStatus.VALID)
    assert [flashblock.payload_id for flashblock in book.handed] == [Q]


def test_the_same_build_asked_for_again_keeps_its_verdicts() -> None:
    book = begun()
    book.send(0)
    book.start(2)
    book.verdict()
    book.confirm(2)
    book.join(2)
    assert book.shown == [("alpha", 0)]
    assert len(book.to_validate) == 1


def test_a_verdict_on_a_stream_that_lost_the_lead_counts_for_nothing() -> None:
    book = begun("alpha", "beta")
    book.send(0, "alpha")
    book.send(0, "alpha", content="second body")
    book.send(0, "beta")
    book.verdict()
    assert book.shown == []
    assert book.to_validate[-1].payload.builder == "beta"
    book.verdict()
    assert book.shown == [("beta", 0)]


def test_a_lead_that_answers_another_id_before_anything_was_shown_leads_with_that_one() -> None:
    book = begun()
    book.send(0)
    book.join(1, "alpha", Q)
    book.send(0, payload=Q)
    book.verdict()
    assert book.shown == []
    assert book.to_validate[-1].payload.payload_id == Q
    book.verdict()
    assert [flashblock.payload_id for flashblock in book.handed] == [Q]


def test_what_cannot_be_assembled_is_refused() -> None:
    book = begun()
    first = make_flashblock(P, 0)
    bare = type(first)(P, 0, first.block_number, None, first.diff, b"{}", first.encoding)
    book.sequence.flashblock("alpha", bare, 0.0)
    assert book.paused == [(Reason.BASE_MISSING, "alpha")]
    assert book.to_validate == []


def test_a_failed_append_of_index_0_lets_another_builder_be_validated() -> None:
    book = begun("alpha", "beta")
    book.send(0, "alpha")
    book.send(0, "beta")
    book.verdict()
    book.sequence.append_failed(Reason.LOG_EQUIVOCATION)
    assert book.to_validate[-1].payload.builder == "beta"
    book.verdict()
    assert book.shown == [("alpha", 0), ("beta", 0)]


def test_the_sealed_block_is_the_validated_one() -> None:
    book = begun()
    for index in range(3):
        book.send(index)
        book.verdict()
        book.appended()
    sealed = book.seal()
    assert sealed is not None
    assert sealed.validated
    assert sealed.execution_payload == book.to_validate[-1].payload.execution_payload
    assert len(json.loads(sealed.execution_payload)["transactions"]) == 3


def test_a_transaction_is_copied_once_and_getpayload_waits_for_no_assembly(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Playbook(execution=True)
    book.begin()
    for index in range(4):
        book.send(index)
        book.verdict()
        book.appended()
    blocks = [question.payload for question in book.to_validate]
    for earlier, later in pairwise(blocks):
        shared = later.transactions[: len(earlier.transactions)]
        assert all(one is other for one, other in zip(shared, earlier.transactions, strict=True))
    expected = assemble(book.handed, builder="alpha", validated=True)
    book.send(4)  # the EL is asked about one more when the fence comes
    monkeypatch.setattr(sequence, "assemble", None)
    assert book.seal() == expected


def test_a_block_of_fewer_flashblocks_than_the_el_called_valid_is_put_together() -> None:
    book = Playbook(execution=True)
    book.begin()
    for index in range(2):
        book.send(index)
        book.verdict()
    sealed = book.seal()
    assert len(book.handed) == 1
    assert sealed == assemble(book.handed, builder="alpha", validated=True)


def test_a_lead_that_was_chosen_before_another_round_showed_its_payload_id_is_not_shown() -> None:
    book = begun()
    book.send(0)  # validation is asked for, and its answer comes only after the next build
    first = book.to_validate[-1].validation_id
    book.start(2, parent_hash=OTHER_PARENT)
    book.confirm(2)
    book.join(2)
    other = make_flashblock(P, 0, "other", base=make_base(parent_hash=OTHER_PARENT))
    book.sequence.flashblock("alpha", other, book.now)
    book.verdict()
    book.appended()
    assert book.handed == [other]
    book.sequence.validated(first, PayloadStatus.VALID)
    book.start(3)
    book.confirm(3)
    book.join(3)  # the first build asked for again: its round, and its lead, go on
    assert book.handed == [other]
