"""The sequence machine in structural mode: what is shown, from whom, and what the fence keeps back."""

import json

import pytest

from appliance.domain.payloads import BuildId, PayloadState
from appliance.flashblocks.assembly import assemble
from appliance.flashblocks.commands import Reason
from appliance.flashblocks.sequence import MAX_ROUNDS
from tests.flashblocks.making import (
    NUMBER,
    OTHER_PARENT,
    TIMESTAMP,
    hash_of,
    make_base,
    make_flashblock,
    payload_id,
)
from tests.flashblocks.playbook import P, Playbook

BUILDING, SEALED = PayloadState.BUILDING, PayloadState.SEALED
LANDED, DROPPED = PayloadState.LANDED, PayloadState.DROPPED
Q = payload_id(2)


# The order of events at the start of a build


def test_flashblocks_are_handed_to_the_log_one_at_a_time_in_order() -> None:
    book = Playbook()
    book.begin()
    for index in range(3):
        book.send(index)
    assert book.shown == [("alpha", 0)]
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1)]
    book.appended()
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]


def test_flashblocks_before_the_builders_answer_wait_for_it() -> None:
    book = Playbook()
    book.start(1)
    book.confirm(1)
    book.send(0)
    book.send(1)
    assert book.shown == []
    book.join(1)
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1)]


def test_flashblocks_even_before_the_build_is_known_wait_for_it() -> None:
    book = Playbook()
    book.send(0)
    book.begin()
    assert book.shown == [("alpha", 0)]


def test_nothing_is_shown_before_the_el_confirms_the_build() -> None:
    book = Playbook()
    book.start(1)
    book.join(1)
    book.send(0)
    book.send(1)
    assert book.shown == []
    book.confirm(1)
    assert book.shown == [("alpha", 0)]


def test_a_build_that_the_el_refuses_is_never_shown() -> None:
    book = Playbook()
    book.start(1)
    book.join(1)
    book.send(0)
    book.abandon(1)
    book.confirm(1)
    assert book.shown == []
    assert book.seal(1) is None


def test_a_builder_that_joins_late_is_shown_from_then_on() -> None:
    book = Playbook()
    book.start(1)
    book.confirm(1)
    for index in range(4):
        book.send(index)
    book.now += 5
    book.join(1)
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1)]


def test_early_flashblocks_of_another_parent_are_refused() -> None:
    book = Playbook()
    base = make_base(parent_hash=OTHER_PARENT)
    book.sequence.flashblock("alpha", make_flashblock(P, 0, base=base), book.now)
    book.begin()
    assert book.shown == []
    assert book.paused == [(Reason.WRONG_BUILD, "alpha")]


def test_calls_about_builds_that_nobody_started_change_nothing() -> None:
    book = Playbook()
    book.confirm(7)
    book.abandon(7)
    book.join(7)
    book.returned(hash_of("x"), 7)
    assert book.seal(7) is None
    book.begin()
    book.start(1)
    book.send_and_log(1)
    assert book.shown == [("alpha", 0)]


def test_a_builders_answer_told_twice_changes_nothing() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(2)
    book.join(1)
    book.send(2)
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]


# Sticking


def test_the_builder_whose_flashblock_0_is_shown_owns_the_payload() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send(0, "beta")
    book.appended()
    for index in range(3):
        book.send(index, "alpha")
    book.send(1, "beta")
    book.appended()
    book.send(2, "beta")
    assert book.shown == [("beta", 0), ("beta", 1), ("beta", 2)]


def test_equal_payload_ids_are_told_apart_by_connection() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta", payload=P)
    book.send(0, "alpha")
    book.send(0, "beta")
    book.send(1, "beta")
    book.appended()
    assert book.shown == [("alpha", 0)]
    owned = book.send(1, "alpha")
    book.appended()
    assert book.handed[1] == owned
    sealed = book.seal()
    assert sealed is not None
    assert sealed.block_hash == hash_of(f"{P}/1/alpha")


def test_of_builders_that_are_ready_together_the_first_configured_one_leads() -> None:
    book = Playbook()
    book.start(1)
    book.join(1, "beta", Q)
    book.join(1, "alpha", P)
    book.send(0, "beta", Q)
    book.send(0, "alpha", P)
    book.confirm(1)
    assert book.shown == [("alpha", 0)]


def test_a_builder_with_a_gap_does_not_lead_when_another_is_complete() -> None:
    book = Playbook()
    book.start(1)
    book.join(1, "alpha", P)
    book.join(1, "beta", Q)
    book.send(0, "alpha", P)
    book.send(2, "alpha", P)
    book.send(0, "beta", Q)
    book.confirm(1)
    assert book.shown == [("beta", 0)]


def test_a_refused_builder_does_not_lead() -> None:
    book = Playbook()
    book.start(1)
    book.join(1, "alpha", P)
    book.join(1, "beta", Q)
    book.send(0, "alpha", P)
    book.send(0, "alpha", P, content="another")
    book.send(0, "beta", Q)
    book.confirm(1)
    assert book.shown == [("beta", 0)]
    assert book.paused == [(Reason.EQUIVOCATION, "alpha")]


def test_after_a_gap_the_stream_stays_paused_and_nobody_takes_over() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send(0, "beta")
    book.send_and_log(0)
    book.appended()
    assert book.shown == [("beta", 0)]
    for index in (2, 3):
        book.send(index, "beta")
    for index in range(4):
        book.send(index, "alpha")
    assert book.shown == [("beta", 0)]
    assert book.dropped == [(Reason.GAP, "beta", 2), (Reason.GAP, "beta", 3)]
    assert book.paused == [(Reason.GAP, "beta")]
    sealed = book.seal()
    assert sealed is not None
    assert (sealed.builder, sealed.flashblocks) == ("beta", 1)
    assert book.sealed == [(1, 3)]


def test_a_missing_flashblock_that_comes_after_all_ends_the_gap() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    book.send(2)
    book.send(1)
    book.appended()
    book.send(2)
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]


def test_a_connection_that_begins_in_mid_payload_shows_nothing() -> None:
    book = Playbook()
    book.begin()
    for index in (3, 4, 5):
        book.send(index)
    assert book.shown == []
    assert book.seal() is None
    assert book.paused == [(Reason.GAP, "alpha")]


def test_a_reconnect_that_missed_nothing_goes_on() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(2)
    book.send(1)
    book.send(2)
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]
    assert book.dropped == [(Reason.DUPLICATE, "alpha", 1)]


def test_a_second_body_for_an_index_is_not_shown_and_ends_the_stream() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(2)
    book.send(1, content="second")
    book.send(2)
    assert book.shown == [("alpha", 0), ("alpha", 1)]
    assert (Reason.EQUIVOCATION, "alpha", 1) in book.dropped
    assert (Reason.PAUSED, "alpha", 2) in book.dropped


def test_a_broken_rule_does_not_take_back_what_was_right_before() -> None:
    book = Playbook()
    book.begin()
    for index in range(3):
        book.send(index)
    book.sequence.flashblock("alpha", make_flashblock(P, 3, base=make_base(number=7)), 0.0)
    book.appended()
    book.appended()
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1), ("alpha", 2)]


# The fence


def test_seal_answers_exactly_what_was_handed_to_the_log() -> None:
    book = Playbook()
    book.begin()
    for index in range(4):
        book.send(index)
    book.appended()
    assert len(book.handed) == 2
    sealed = book.seal()
    assert sealed == assemble(book.handed, builder="alpha")
    assert (Reason.UNPUBLISHED, "alpha", 2) in book.dropped


def test_an_append_that_waits_for_the_disk_is_in_the_sealed_block() -> None:
    book = Playbook()
    book.begin()
    book.send(0)
    sealed = book.seal()
    assert sealed is not None
    assert sealed.flashblocks == 1
    book.appended()
    assert book.shown == [("alpha", 0)]
    assert book.states == [(P, SEALED)]


def test_nothing_is_handed_to_the_log_after_the_fence() -> None:
    book = Playbook()
    book.begin()
    for index in range(3):
        book.send(index)
    book.seal()
    book.appended()
    for index in range(3, 6):
        book.send(index)
    assert book.shown == [("alpha", 0)]
    assert [reason for reason, _, _ in book.dropped] == [Reason.UNPUBLISHED, *[Reason.LATE] * 3]


def test_seal_is_idempotent() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(2)
    first = book.seal()
    book.send(2)
    assert book.seal() is first
    assert book.states == [(P, SEALED)]
    assert book.sealed == [(2, 0)]


def test_seal_before_anything_was_shown_keeps_everything_back() -> None:
    book = Playbook()
    book.begin()
    assert book.seal() is None
    book.send(0)
    assert (book.shown, book.states, book.seal()) == ([], [], None)


def test_a_builder_that_joins_after_the_fence_is_not_shown() -> None:
    book = Playbook()
    book.start(1)
    book.confirm(1)
    book.send(0)
    assert book.seal() is None
    book.join(1)
    book.send(1)
    assert book.shown == []
    assert [reason for reason, _, _ in book.dropped] == [Reason.LATE, Reason.LATE]


def test_a_stream_without_base_is_shown_but_not_assembled() -> None:
    body = b'{"payload_id":"0x0000000000000001","index":0}'
    book = Playbook()
    book.begin()
    flashblock = make_flashblock(P, 0)
    bare = type(flashblock)(P, 0, NUMBER, None, None, body, flashblock.encoding)
    book.sequence.flashblock("alpha", bare, 0.0)
    assert book.shown == [("alpha", 0)]
    assert book.seal() is None
    assert book.states == [(P, SEALED)]


# A newer build


def test_late_flashblocks_of_a_replaced_build_are_counted_and_not_shown() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(1)
    book.start(2, parent_hash=OTHER_PARENT)
    book.send(1)
    assert book.shown == [("alpha", 0)]
    assert book.dropped == [(Reason.REPLACED, "alpha", 1)]


def test_a_replaced_build_is_not_shown_while_the_newer_one_has_nothing_yet() -> None:
    book = Playbook()
    book.begin(1)
    for index in range(3):
        book.send(index)
    book.start(2)
    book.appended()
    assert book.shown == [("alpha", 0)]
    book.confirm(2)
    book.join(2, "alpha", Q)
    book.send(0, "alpha", Q)
    assert [flashblock.payload_id for flashblock in book.handed] == [P, Q]


def test_a_replaced_build_can_still_be_sealed() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(2)
    book.start(2)
    sealed = book.seal(1)
    assert sealed is not None
    assert sealed.flashblocks == 2


def test_an_append_of_the_replaced_build_ends_before_the_newer_one_begins() -> None:
    book = Playbook()
    book.begin(1)
    book.send(0)
    book.start(2, parent_hash=OTHER_PARENT, timestamp=TIMESTAMP + 2)
    book.confirm(2)
    book.join(2, "alpha", Q)
    base = make_base(parent_hash=OTHER_PARENT, timestamp=TIMESTAMP + 2, number=NUMBER + 1)
    book.sequence.flashblock("alpha", make_flashblock(Q, 0, base=base, number=NUMBER + 1), 0.0)
    assert [flashblock.payload_id for flashblock in book.handed] == [P]
    book.appended()
    assert [flashblock.payload_id for flashblock in book.handed] == [P, Q]


def test_a_payload_id_that_comes_again_for_another_parent_is_not_shown_twice() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(1)
    book.start(2, parent_hash=OTHER_PARENT)
    book.confirm(2)
    book.join(2, "alpha", P)
    base = make_base(parent_hash=OTHER_PARENT)
    book.sequence.flashblock("alpha", make_flashblock(P, 0, "again", base=base), 0.0)
    assert book.shown == [("alpha", 0)]
    assert book.seal(2) is None


# The same forkchoice_updated again


def test_the_same_build_asked_for_again_goes_on_where_it_was() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(2)
    book.start(2)
    book.send(2)
    assert len(book.shown) == 2
    book.join(2)
    book.appended()
    book.send(3)
    book.appended()
    assert book.shown == [("alpha", index) for index in range(4)]
    first, second = book.seal(2), book.seal(1)
    assert first is second
    assert first is not None
    assert first.flashblocks == 4


def test_a_build_asked_for_again_after_the_first_was_abandoned_needs_its_own_confirmation() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(1)
    book.abandon(1)
    book.start(2)
    book.join(2)
    book.send(1)
    assert book.shown == [("alpha", 0)]
    book.confirm(2)
    assert book.shown == [("alpha", 0), ("alpha", 1)]


def test_a_build_that_the_el_refused_first_and_took_the_second_time_misses_nothing() -> None:
    book = Playbook()
    book.start(1)
    book.join(1)
    book.send(0)
    book.abandon(1)
    book.send(1)
    book.begin(2)
    book.appended()
    assert book.shown == [("alpha", 0), ("alpha", 1)]


def test_a_build_asked_for_again_after_getpayload_gets_the_same_block() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(2)
    first = book.seal(1)
    book.begin(2)
    book.send(0, content="rebuilt")
    assert book.seal(2) is first
    assert len(book.shown) == 2


def test_a_build_asked_for_again_after_an_empty_seal_can_be_shown() -> None:
    book = Playbook()
    book.begin(1)
    assert book.seal(1) is None
    book.begin(2)
    book.send(0)
    assert book.shown == [("alpha", 0)]
    assert book.seal(2) is not None
    assert book.seal(1) is None


def test_a_build_that_was_sealed_empty_stays_so_when_the_builder_answers_late() -> None:
    book = Playbook()
    book.begin(1)
    book.send_and_log(2)
    book.start(2)
    assert book.seal(2) is None
    book.join(2)
    assert book.seal(2) is None
    assert len(book.shown) == 2


def test_the_owner_stays_when_another_builder_is_the_first_to_join_again() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send_and_log(1, "beta")
    book.start(2)
    book.confirm(2)
    book.join(2, "alpha")
    for index in range(3):
        book.send(index, "alpha")
    book.join(2, "beta")
    book.send(1, "beta")
    assert book.shown == [("beta", 0), ("beta", 1)]


def test_a_builder_that_answers_another_id_the_second_time_does_not_replace_the_owner() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send_and_log(1, "beta")
    book.start(2)
    book.confirm(2)
    book.join(2, "beta", Q)
    book.join(2, "alpha", P)
    book.send(0, "beta", Q)
    book.send(1, "beta", P)
    assert book.shown == [("beta", 0), ("beta", 1)]
    assert {flashblock.payload_id for flashblock in book.handed} == {P}


def test_a_new_id_of_a_builder_that_nothing_was_shown_of_replaces_the_old_one() -> None:
    book = Playbook()
    book.start(1)
    book.join(1, "alpha", P)
    book.send(0, "alpha", P)
    book.join(1, "alpha", Q)
    book.send(0, "alpha", Q)
    book.confirm(1)
    assert [flashblock.payload_id for flashblock in book.handed] == [Q]


def test_once_the_newer_build_is_shown_the_older_one_does_not_come_back() -> None:
    book = Playbook()
    book.begin(1, "alpha")
    book.join(1, "beta", Q)
    book.send_and_log(1, "alpha", P)
    book.start(2)
    book.confirm(2)
    other = payload_id(3)
    book.join(2, "beta", other)
    book.send_and_log(1, "beta", other)
    book.join(2, "alpha", P)
    book.send(1, "alpha", P)
    book.send(1, "beta", other)
    assert [(flashblock.payload_id, flashblock.index) for flashblock in book.handed] == [
        (P, 0),
        (other, 0),
        (other, 1),
    ]


# The log fails


def test_an_append_that_fails_pauses_the_payload_and_is_not_in_the_block() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send_and_log(1)
    book.send(1)
    book.send(2)
    book.sequence.append_failed(Reason.LOG_FAILED)
    book.send(3)
    sealed = book.seal()
    assert sealed is not None
    assert sealed.flashblocks == 1
    assert len(book.shown) == 2
    assert (Reason.LOG_FAILED, "alpha") in book.paused


def test_the_next_payload_goes_on_after_an_append_failed() -> None:
    book = Playbook()
    book.begin(1)
    book.send(0)
    book.sequence.append_failed(Reason.LOG_FAILED)
    assert book.seal(1) is None
    book.begin(2, payload=Q)
    book.send(0, payload=Q)
    assert [flashblock.payload_id for flashblock in book.handed] == [P, Q]
    assert book.states == []


def test_when_the_log_holds_another_body_of_index_0_another_builder_may_have_that_one() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send(0, "alpha")
    book.send(0, "beta")
    book.sequence.append_failed(Reason.LOG_EQUIVOCATION)
    assert book.shown == [("alpha", 0), ("beta", 0)]
    book.appended()
    book.send(1, "alpha")
    book.send(1, "beta")
    assert book.shown == [("alpha", 0), ("beta", 0), ("beta", 1)]
    sealed = book.seal()
    assert sealed is not None
    assert sealed.builder == "beta"


def test_when_the_log_holds_another_body_of_a_later_index_the_payload_is_paused() -> None:
    book = Playbook()
    book.begin(1, "alpha", "beta")
    book.send_and_log(1, "alpha")
    book.send(0, "beta")
    book.send(1, "alpha")
    book.sequence.append_failed(Reason.LOG_EQUIVOCATION)
    book.send(1, "beta")
    assert book.shown == [("alpha", 0), ("alpha", 1)]
    assert book.seal() == assemble(book.handed[:1], builder="alpha")


def test_an_append_that_fails_after_the_fence_does_not_change_the_answer() -> None:
    book = Playbook()
    book.begin()
    book.send(0)
    sealed = book.seal()
    book.sequence.append_failed(Reason.LOG_FAILED)
    assert book.seal() is sealed
    book.begin(2, payload=Q)
    book.send(0, payload=Q)
    assert len(book.shown) == 2


# Landed or dropped


def test_a_payload_lands_when_its_last_shown_block_becomes_head() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(3)
    sealed = book.seal()
    assert sealed is not None
    book.returned(sealed.block_hash)
    book.sequence.head_changed(sealed.block_hash.upper().replace("0X", "0x"), NUMBER)
    assert book.states == [(P, SEALED), (P, LANDED)]
    assert json.loads(sealed.execution_payload)["blockHash"] == sealed.block_hash


def test_a_payload_lands_with_the_builders_block_that_has_more_than_was_shown() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(2)
    book.seal()
    book.send(2)
    final = book.send(3)
    assert final.diff is not None
    book.sequence.head_changed(final.diff.block_hash, None)
    assert book.states == [(P, SEALED), (P, LANDED)]


def test_a_block_with_less_than_was_shown_means_dropped() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(3)
    book.seal()
    book.sequence.head_changed(hash_of(f"{P}/0/alpha"), NUMBER)
    assert book.states == [(P, SEALED), (P, DROPPED)]


def test_another_block_at_the_height_means_dropped() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    book.seal()
    book.sequence.head_changed(hash_of("parent"), NUMBER - 1)
    book.sequence.head_changed(hash_of("unknown"), None)
    assert book.states == [(P, SEALED)]
    book.sequence.head_changed(hash_of("other"), NUMBER)
    assert book.states == [(P, SEALED), (P, DROPPED)]


def test_the_els_block_that_was_returned_means_dropped_also_without_its_number() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    book.seal()
    book.returned(hash_of("local"))
    assert book.states == [(P, SEALED)]
    book.sequence.head_changed(hash_of("local"), None)
    assert book.states == [(P, SEALED), (P, DROPPED)]


@pytest.mark.parametrize(("holds_all", "outcome"), [(True, LANDED), (False, DROPPED)])
def test_a_block_that_is_what_was_shown_under_another_hash_lands(holds_all: bool, outcome: PayloadState) -> None:
    """The EL has filled in the state root."""
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    book.seal()
    book.sequence.payload_returned(BuildId(1), hash_of("completed"), holds_all=holds_all)
    book.sequence.head_changed(hash_of("completed"), NUMBER)
    assert book.states == [(P, SEALED), (P, outcome)]


def test_a_block_from_elsewhere_closes_a_build_that_getpayload_never_came_for() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    book.sequence.head_changed(hash_of("other sequencer"), NUMBER)
    book.send(1)
    assert book.states == [(P, SEALED), (P, DROPPED)]
    assert book.shown == [("alpha", 0)]


def test_a_payload_that_was_never_shown_has_no_fate() -> None:
    book = Playbook()
    book.begin()
    book.seal()
    book.sequence.head_changed(hash_of("other"), NUMBER)
    assert book.states == []


def test_its_fate_is_told_once() -> None:
    book = Playbook()
    book.begin()
    book.send_and_log(1)
    sealed = book.seal()
    assert sealed is not None
    for number in range(3):
        book.sequence.head_changed(sealed.block_hash, NUMBER)
        book.sequence.head_changed(hash_of("next"), NUMBER + number)
    assert book.states == [(P, SEALED), (P, LANDED)]


# Memory


def test_memory_of_builds_is_bounded_and_what_never_landed_was_dropped() -> None:
    book = Playbook()
    for number in range(3 * MAX_ROUNDS):
        book.begin(number, payload=payload_id(number))
        book.send_and_log(1, payload=payload_id(number))
    statistics = book.sequence.statistics()
    assert statistics["rounds"] == MAX_ROUNDS
    assert [state for _, state in book.states] == [DROPPED] * 2 * MAX_ROUNDS
    assert book.seal(0) is None
    assert book.seal(3 * MAX_ROUNDS - 1) is not None
    assert len(book.sequence._routes) == len(book.sequence._builds) == len(book.sequence._published) == MAX_ROUNDS


def test_an_append_of_a_build_that_is_forgotten_meanwhile_ends_quietly() -> None:
    for fails in (False, True):
        book = Playbook()
        book.begin(0, payload=payload_id(0))
        book.send(0, payload=payload_id(0))
        for number in range(1, MAX_ROUNDS + 2):
            book.begin(number, payload=payload_id(number))
        if fails:
            book.sequence.append_failed(Reason.LOG_FAILED)
        else:
            book.appended()
        book.send(0, payload=payload_id(MAX_ROUNDS + 1))
        assert [flashblock.payload_id for flashblock in book.handed][1:] == [payload_id(MAX_ROUNDS + 1)]


def test_flashblocks_that_are_never_announced_are_given_up() -> None:
    book = Playbook()
    book.send(0, payload=Q)
    book.now += 60
    book.start(1)
    assert book.dropped == [(Reason.UNANNOUNCED, "alpha", 0)]
    assert book.sequence.statistics()["early_flashblocks"] == 0


# What others may ask


def test_flashblocks_are_expected_of_builders_that_build_and_only_until_the_fence() -> None:
    book = Playbook()
    assert not book.sequence.is_building("alpha")
    book.start(1)
    assert [book.sequence.is_building(name) for name in ("alpha", "beta")] == [False, False]
    book.join(1)
    assert [book.sequence.is_building(name) for name in ("alpha", "beta")] == [True, False]
    book.seal(1)
    assert [book.sequence.is_building(name) for name in ("alpha", "beta")] == [False, False]


@pytest.mark.parametrize("started", [False, True])
def test_statistics_can_be_shown_as_json(*, started: bool) -> None:
    book = Playbook()
    if started:
        book.begin()
        book.send_and_log(2)
    statistics = json.loads(json.dumps(book.sequence.statistics()))
    assert statistics["payload_id"] == (P if started else None)
    assert statistics["published"] == (2 if started else 0)
    assert book.sequence.seal(BuildId(99)) is None
