"""The op-node of the engine bench."""

from collections import Counter

import pytest

from bench import blocks, engine
from bench.children import ChildError
from bench.upstreams import Upstream

SLOT_S = 0.001


class FakeCalls:
    """An upstream without a network that writes down who was asked for what."""

    def __init__(self, name: str, role: str, diary: list[str]) -> None:
        self._name = name
        self._upstreams = {True: Upstream(blocks.EL), False: Upstream(role)}
        self._l2_only = False
        self._diary = diary

    def call(self, body: bytes) -> tuple[bytes, float]:
        if b'"noTxPool"' in body:
            self._l2_only = b'"noTxPool":true' in body
        self._diary.append(self._name)
        return self._upstreams[self._l2_only].answer(body)[0], 0.001


def drive(role: str, slots: int) -> tuple[dict[str, tuple[list[float], list[float]]], list[str]]:
    diary: list[str] = []
    driver = engine.Driver(FakeCalls("direct", role, diary), FakeCalls("through", role, diary))
    return driver.run(slots, SLOT_S), diary


def test_each_request_goes_to_both_and_the_warm_up_does_not_count() -> None:
    samples, diary = drive(blocks.BUILDER, 4)
    assert {request: tuple(map(len, taken)) for request, taken in samples.items()} == {
        engine.FCU: (8, 8),
        engine.BUILD: (8, 8),
        engine.GET_BUILDER: (4, 4),
        engine.GET_EL: (4, 4),
    }
    per_slot = Counter(diary)
    assert per_slot == {"direct": 6 * (4 + engine.WARM_UP), "through": 6 * (4 + engine.WARM_UP)}


def test_who_is_asked_first_alternates_from_slot_to_slot() -> None:
    _, diary = drive(blocks.BUILDER, 3)
    slots = [diary[begin : begin + 12] for begin in range(0, len(diary), 12)]
    firsts = [set(slot[::2]) for slot in slots]
    assert all(len(names) == 1 for names in firsts)
    assert firsts[0] != firsts[1]
    assert firsts[::2] == [firsts[0]] * len(firsts[::2])


def test_the_wrong_builders_block_ends_the_run() -> None:
    with pytest.raises(ChildError, match="getPayload: builder's block: the appliance answered"):
        drive(blocks.EL, 1)
