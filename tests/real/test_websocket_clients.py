"""Fan-out serves websocket clients that others wrote: they connect, choose an encoding, resume, and go."""

import json
import pathlib
from collections.abc import Iterator
from functools import partial

import pytest

from tests.real.fan_out import FanOut, Published, real_flashblocks
from tests.real.subscribers import (
    Received,
    Subscribe,
    chromium,
    subscribe_with_chromium,
    subscribe_with_node,
    subscribe_with_websockets,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

PUBLISHED = real_flashblocks()
CURRENT = [one for one in PUBLISHED if one.payload_id == PUBLISHED[-1].payload_id]
GOING_ON = 1000
L1_BLOCK = "4200000000000000000000000000000000000015"  # the first transaction of every block calls it


def check(got: Received, published: list[Published]) -> None:
    """These flashblocks and nothing else, in order; and the close says where to resume."""
    assert got.texts == [one.text for one in published]
    last = published[-1]
    place = f"payload_id={last.payload_id} block_number={last.block_number} flashblock_index={last.index}"
    assert (got.code, got.reason) == (GOING_ON, place)


@pytest.fixture(scope="module")
def fan_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FanOut]:
    started = FanOut(tmp_path_factory.mktemp("fanout"), PUBLISHED)
    try:
        started.start()
        yield started
    finally:
        code = started.stop()
    assert code == 0, started.process.text()[-2000:]


@pytest.fixture(params=["websockets", "ws", "chromium"])
def subscribe(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Subscribe:
    if request.param == "websockets":
        return subscribe_with_websockets
    if request.param == "ws":
        return subscribe_with_node
    chromium()
    return partial(subscribe_with_chromium, tmp_path)


def test_who_says_no_place_begins_with_the_current_block(fan_out: FanOut, subscribe: Subscribe) -> None:
    got = subscribe(fan_out.url(), len(CURRENT), False)
    check(got, CURRENT)
    assert not any(message.binary for message in got.messages)


@pytest.mark.parametrize("by", ["block_number={one.block_number}", "payload_id={one.payload_id}"])
def test_who_resumes_gets_everything_after_its_last_flashblock(fan_out: FanOut, subscribe: Subscribe, by: str) -> None:
    last = PUBLISHED[6]
    query = f"{by.format(one=last)}&flashblock_index={last.index}"
    check(subscribe(fan_out.url(query), len(PUBLISHED[7:]), False), PUBLISHED[7:])


def test_brotli_comes_in_binary_messages(fan_out: FanOut, subscribe: Subscribe) -> None:
    got = subscribe(fan_out.url(f"encoding=brotli&block_number={PUBLISHED[0].block_number}"), len(PUBLISHED), False)
    assert all(message.binary for message in got.messages)
    check(got, PUBLISHED)


def test_deflate_is_negotiated_and_the_text_is_the_same(fan_out: FanOut, subscribe: Subscribe) -> None:
    got = subscribe(fan_out.url(f"block_number={PUBLISHED[0].block_number}"), len(PUBLISHED), True)
    assert got.deflated
    assert not any(message.binary for message in got.messages)
    check(got, PUBLISHED)


def test_a_filter_lets_through_what_holds_its_address_also_with_resume(fan_out: FanOut, subscribe: Subscribe) -> None:
    wanted = [
        one for one in PUBLISHED if any(L1_BLOCK in each for each in json.loads(one.text)["diff"]["transactions"])
    ]
    assert 1 < len(wanted) < len(PUBLISHED)
    query = f"block_number={PUBLISHED[0].block_number}&addresses=0x{L1_BLOCK}"
    got = subscribe(fan_out.url(query, "/ws/filter"), len(wanted), False)
    assert got.texts == [one.text for one in wanted]
    assert got.code == GOING_ON
    after = f"payload_id={wanted[0].payload_id}&flashblock_index={wanted[0].index}&addresses=0x{L1_BLOCK}"
    rest = subscribe(fan_out.url(after, "/ws/filter"), len(wanted) - 1, False)
    assert rest.texts == [one.text for one in wanted[1:]]
