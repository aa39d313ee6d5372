import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import open_websocket_url

from appliance.devnet.builder import LATE_FLASHBLOCKS, BuilderSettings, SimulatedBuilder
from appliance.devnet.capture import CapturedPayload, read_capture
from appliance.devnet.chain import header_of
from appliance.devnet.faults import Fault
from appliance.devnet.messages import hex_data
from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.wire import flashblock as wire
from tests.devnet.setting import (
    attributes,
    forkchoice,
    insert,
    make_builder,
    make_el,
    new_payload_params,
    start_build,
)
from tests.support.ports import lasting_port

Clock = trio.testing.MockClock


async def slot(builder: SimulatedBuilder, seconds: float = 1.95, **changes: Any) -> dict[str, Any]:
    """A whole slot: the answer of getPayload after `seconds`."""
    name = await start_build(builder, **changes)
    await trio.sleep(seconds)
    envelope = await builder.call("engine_getPayloadV4", [name])
    assert isinstance(envelope, dict)
    return envelope


def captured(builder: SimulatedBuilder, folder: Path) -> CapturedPayload:
    """What the builder published, read as a capture."""
    path = folder / "published.jsonl"
    path.write_text("".join(f"{item.message!s}\n" for item in builder.published))
    return read_capture(path)[-1]


def indices(builder: SimulatedBuilder) -> list[int]:
    return [item.index for item in builder.published]


async def test_flashblocks_come_at_once_and_then_each_interval(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        times: list[tuple[float, int]] = []
        start = trio.current_time()
        await start_build(builder)
        for _ in range(12):
            await trio.testing.wait_all_tasks_blocked()
            times.append((round(trio.current_time() - start, 3), len(builder.published)))
            await trio.sleep(0.2)
    assert times[:3] == [(0.0, 1), (0.2, 2), (0.4, 3)]
    assert times[-1][1] == 10, "no more than the block has room for"


async def test_getpayload_is_what_the_flashblocks_add_up_to(autojump_clock: Clock, tmp_path: Path) -> None:
    async with make_builder().serving(None) as builder:
        envelope = await slot(builder)
    whole = captured(builder, tmp_path)
    assert msgspec.to_builtins(whole.payload()) == envelope["executionPayload"]
    assert whole.id_is_computable()
    assert indices(builder) == list(range(10))


async def test_every_prefix_of_flashblocks_is_a_block_that_an_el_calls_valid(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with make_builder().serving(None) as builder, make_el().serving(None) as el:
        await slot(builder)
        whole = captured(builder, tmp_path)
        for count in range(1, len(whole.flashblocks) + 1):
            part = CapturedPayload(whole.payload_id, (), whole.flashblocks[:count])
            assert hex_data(header_of(part.payload(), whole.base.parent_beacon_block_root).hash) == (
                builder.published[count - 1].block_hash
            )
            status = await el.call("engine_newPayloadV4", new_payload_params(part.envelope()))
            assert status["status"] == "VALID", (count, status)


async def test_first_flashblock_holds_base_and_deposit_alone(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        await slot(builder)
    first, second = (json.loads(str(item.message)) for item in list(builder.published)[:2])
    assert len(first["diff"]["transactions"]) == 1
    assert first["base"]["block_number"] == "0x1"
    assert "base" not in second
    assert len(second["diff"]["transactions"]) == 1 + builder.settings.transactions_per_flashblock


async def test_getpayload_ends_the_stream(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        envelope = await slot(builder, seconds=0.5)
        await trio.sleep(5)
        assert indices(builder) == [0, 1, 2]
        assert builder.published[-1].block_hash == envelope["executionPayload"]["blockHash"]


async def test_two_builders_make_different_blocks_and_know_their_own(autojump_clock: Clock) -> None:
    async with make_builder(name="one").serving(None) as one, make_builder(name="two").serving(None) as two:
        first, second = await slot(one), await slot(two)
        hashes = [envelope["executionPayload"]["blockHash"] for envelope in (first, second)]
        assert hashes[0] != hashes[1]
        assert (hashes[0] in one.api.built, hashes[0] in two.api.built) == (True, False)
        await insert(two, first)
        assert two.head.hash == hashes[0]


async def test_own_transaction_goes_on_counting_over_blocks(autojump_clock: Clock) -> None:
    async with make_builder(name="one").serving(None) as builder:
        for _ in range(3):
            await insert(builder, await slot(builder))
        assert builder.head.nonces[builder._wallet.address("one")] == 3


async def test_no_tx_pool_publishes_nothing(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        await slot(builder, noTxPool=True)
    assert not builder.published


async def test_second_build_replaces_the_first(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        first = await start_build(builder)
        await trio.sleep(0.5)
        second = await start_build(builder, prevRandao="0x" + "08" * 32)
        await trio.sleep(3)
    assert [item.index for item in builder.flashblocks_of(PayloadId(first))] == [0, 1, 2]
    assert [item.index for item in builder.flashblocks_of(PayloadId(second))] == list(range(10))


async def test_forms_of_production_builders(autojump_clock: Clock) -> None:
    settings = BuilderSettings(encoding=Encoding.BROTLI, repeat_base=True, interval_s=0.1)
    async with make_builder(settings).serving(None) as builder:
        await slot(builder)
    bodies = [item.message for item in builder.published if isinstance(item.message, bytes)]
    messages = [json.loads(wire.plain_text(body, Encoding.BROTLI)) for body in bodies]
    assert len(messages) == 10
    assert all(message["base"] == messages[0]["base"] for message in messages)


# faults


async def published_under(fault: Fault, seconds: float = 1.95) -> SimulatedBuilder:
    builder = make_builder()
    builder.faults.set(fault)
    async with builder.serving(None):
        await slot(builder, seconds)
        await trio.sleep(2)
    return builder


async def test_mute_builder_publishes_nothing_and_still_has_a_block(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        builder.faults.set(Fault.MUTE)
        envelope = await slot(builder)
    assert not builder.published
    assert len(envelope["executionPayload"]["transactions"]) > 10


async def test_gaps(autojump_clock: Clock) -> None:
    assert indices(await published_under(Fault.GAPS)) == [0, 1, 3, 4, 6, 7, 9]


async def test_equivocation_is_two_bodies_under_one_key(autojump_clock: Clock) -> None:
    builder = await published_under(Fault.EQUIVOCATES, seconds=0.7)
    assert indices(builder) == [0, 1, 1, 2, 3, 3]
    first, second = (item.message for item in builder.published if item.index == 1)
    assert first != second


async def test_garbage_between_flashblocks_cannot_be_decoded(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, sent = make_builder(), list[str | bytes]()
    monkeypatch.setattr(builder.websocket, "publish", sent.append)
    builder.faults.set(Fault.GARBAGE)
    async with builder.serving(None):
        await slot(builder)
    assert len(sent) == 20
    for message in sent[0::2]:
        body, binary = (message.encode(), False) if isinstance(message, str) else (message, True)
        with pytest.raises(DecodeError):
            wire.decode(body, wire.encoding_of(body, is_binary=binary))
    assert sent[1::2] == [item.message for item in builder.published]


async def test_invalid_builder_shows_the_same_wrong_block_everywhere(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder, make_el().serving(None) as el:
        builder.faults.set(Fault.INVALID)
        envelope = await slot(builder)
        assert builder.published[-1].block_hash == envelope["executionPayload"]["blockHash"]
        status = await el.call("engine_newPayloadV4", new_payload_params(envelope))
    assert status["status"] == "INVALID"


async def test_empty_builder(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        builder.faults.set(Fault.EMPTY)
        assert len((await slot(builder))["executionPayload"]["transactions"]) == 1


async def test_late_flashblocks_after_getpayload(autojump_clock: Clock) -> None:
    builder = await published_under(Fault.LATE, seconds=0.5)
    assert indices(builder) == [0, 1, 2, *range(3, 3 + LATE_FLASHBLOCKS)]
    assert len({item.block_hash for item in list(builder.published)[2:]}) == 1


async def test_early_flashblock_comes_before_the_answer(autojump_clock: Clock) -> None:
    async with make_builder().serving(None) as builder:
        builder.faults.set(Fault.EARLY)
        start = trio.current_time()
        await start_build(builder)
        assert trio.current_time() - start == pytest.approx(0.1)
        assert indices(builder) == [0]
        await builder.call("engine_forkchoiceUpdatedV3", [forkchoice(builder.head.hash), None])
        assert trio.current_time() - start == pytest.approx(0.1), "without attributes there is nothing to delay"


# on sockets


async def test_listener_receives_what_was_published_and_is_cut_when_the_builder_goes_down() -> None:
    settings = BuilderSettings(interval_s=0.01, flashblocks=3)
    address, flashblocks_address = (f"127.0.0.1:{lasting_port()}" for _ in range(2))
    async with make_builder(settings, flashblocks_address=flashblocks_address).serving(address) as builder:
        url = builder.flashblocks_url
        async with open_websocket_url(url) as connection:
            await builder.websocket.wait_listeners()
            await start_build(builder)
            received = [await connection.get_message() for _ in range(3)]
            assert received == [item.message for item in builder.published]
            builder.faults.set(Fault.DOWN)
            while builder.websocket.listeners:
                await trio.testing.wait_all_tasks_blocked()
            await connection._close_stream()  # after an abnormal end trio-websocket leaves it open
        with pytest.raises(OSError, match=r"(?i)connect"):
            await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        builder.faults.set(Fault.DOWN, on=False)
        await trio.testing.wait_all_tasks_blocked()
        assert builder.flashblocks_url == url
        async with open_websocket_url(url):
            await builder.websocket.wait_listeners()
    assert builder.statistics()["flashblocks"] == 3


async def test_builder_that_was_down_catches_up(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as el, make_builder(peers=[el.ledger]).serving(None) as builder:
        builder.faults.set(Fault.DOWN)
        for _ in range(2):
            name = await start_build(el)
            await trio.sleep(1)
            await insert(el, await el.call("engine_getPayloadV4", [name]))
        builder.faults.set(Fault.DOWN, on=False)
        update = [forkchoice(el.head.hash), attributes(el.head)]
        answer = await builder.call("engine_forkchoiceUpdatedV3", update)
        assert answer["payloadStatus"]["status"] == "SYNCING"
        await trio.sleep(2)
        answer = await builder.call("engine_forkchoiceUpdatedV3", update)
        assert answer["payloadId"] is not None
