"""The selection machine: which step comes next."""

import pytest

from appliance.domain.payloads import PayloadStatus
from appliance.engine.events import ASSEMBLED, EL
from appliance.engine.offers import BuildOrder, Standing
from appliance.engine.policies import builder, gas_used
from appliance.engine.selection import AskVerdict, Choose, GiveUp, Selection, Step, Wait
from appliance.wire.engine_answers import BuiltPayload, Verdict, decode_payload
from tests.engine import messages as m

ORDER = BuildOrder(m.PARENT, m.TIMESTAMP, m.ROOT, (b'"%b"' % m.DEPOSIT.encode(),))


def built(name: str, gas_used: int = 100_000, transactions: tuple[str, ...] = ()) -> BuiltPayload:
    return decode_payload(m.Block(name, gas_used=gas_used, transactions=transactions).answer(), 4)


def say(selection: Selection, source: str, status: PayloadStatus) -> None:
    selection.judge(source, Verdict(status, None))


def chosen(step: Step) -> str:
    assert isinstance(step, Choose)
    return step.offer.source


def candidate(step: Step) -> str:
    assert isinstance(step, AskVerdict)
    return step.offer.source


@pytest.fixture
def selection() -> Selection:
    return Selection(ORDER, ("alpha", "beta"), builder)


def test_with_nothing_come_it_waits(selection: Selection) -> None:
    assert selection.step() == Wait()


def test_without_any_source_left_it_gives_up(selection: Selection) -> None:
    for source in ("alpha", EL, "beta"):
        assert selection.step() == Wait()
        selection.lose(source, "gone")
    assert selection.step() == GiveUp()


def test_the_el_alone_is_chosen_without_a_verdict() -> None:
    selection = Selection(ORDER, (), builder)
    selection.offer(EL, built("local"))
    assert chosen(selection.step()) == EL


def test_the_els_block_is_not_held_against_the_order() -> None:
    selection = Selection(ORDER, (), builder)
    assert selection.offer(EL, decode_payload(m.Block("odd", parent="0x" + "cc" * 32).answer(), 4)) is None
    assert chosen(selection.step()) == EL


def test_one_validation_at_a_time(selection: Selection) -> None:
    selection.offer("beta", built("b"))
    assert candidate(selection.step()) == "beta"
    selection.offer("alpha", built("a"))
    assert selection.step() == Wait()
    say(selection, "beta", PayloadStatus.VALID)
    assert candidate(selection.step()) == "alpha"
    say(selection, "alpha", PayloadStatus.SYNCING)
    assert chosen(selection.step()) == "beta"
    assert str(selection.offers["alpha"]) == "lost: l2 said SYNCING"


def test_what_stands_behind_a_valid_block_is_not_validated(selection: Selection) -> None:
    selection.offer(EL, built("local"))
    selection.offer("alpha", built("a"))
    selection.step()
    say(selection, "alpha", PayloadStatus.VALID)
    selection.offer("beta", built("b"))
    assert chosen(selection.step()) == "alpha"
    assert selection.offers["beta"].standing is Standing.OFFERED


def test_past_the_deadline_only_what_is_valid_counts(selection: Selection) -> None:
    selection.offer("alpha", built("a"))
    selection.step()
    selection.pass_deadline()
    assert selection.step() == Wait(), "there is no block at all, so the verdict is waited for"
    selection.offer(EL, built("local"))
    assert chosen(selection.step()) == EL


def test_past_the_deadline_with_nothing_valid_validation_goes_on(selection: Selection) -> None:
    selection.lose(EL, "down")
    selection.pass_deadline()
    selection.offer("beta", built("b"))
    assert candidate(selection.step()) == "beta"
    say(selection, "beta", PayloadStatus.VALID)
    assert chosen(selection.step()) == "beta", "alpha is not waited for any more"


def test_past_the_deadline_builders_without_a_block_are_given_up(selection: Selection) -> None:
    selection.pass_deadline()
    assert selection.step() == Wait(), "the EL's block is still to come"
    selection.lose(EL, "down")
    assert selection.step() == GiveUp()


def test_the_promise_comes_before_the_policy() -> None:
    selection = Selection(ORDER, ("alpha", "beta"), gas_used)
    poor = m.Block("poor", gas_used=1, transactions=("0x02aa",))
    assert selection.promise(poor.assembled("beta", validated=True)) is None
    selection.offer(EL, built("local", gas_used=10**6))
    assert chosen(selection.step()) == ASSEMBLED


def test_an_assembled_block_that_is_lost_leaves_its_promise_behind(selection: Selection) -> None:
    selection.promise(m.Block("p", transactions=("0x02aa",)).assembled("beta"))
    assert candidate(selection.step()) == ASSEMBLED
    say(selection, ASSEMBLED, PayloadStatus.INVALID)
    selection.offer("alpha", built("breaks", transactions=("0x02ff",)))
    assert not selection.offers["alpha"].preserves
    selection.offer("beta", built("keeps", transactions=("0x02aa", "0x02bb")))
    assert selection.offers["beta"].preserves
    assert candidate(selection.step()) == "beta"


def test_an_assembled_block_of_an_unknown_builder_is_taken_all_the_same(selection: Selection) -> None:
    selection.promise(m.Block("p", transactions=("0x02aa",)).assembled("gone", validated=True))
    assert chosen(selection.step()) == ASSEMBLED


def test_a_lost_offer_gives_its_bytes_free(selection: Selection) -> None:
    selection.offer("alpha", built("a"))
    selection.lose("alpha", "why")
    assert selection.offers["alpha"].block is None
    with pytest.raises(RuntimeError, match="the offer of alpha has no block: lost: why"):
        selection.offers["alpha"].taken()
