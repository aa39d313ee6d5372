"""A builder's lanes on real sockets: order, patience, and outcomes for who waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import DecodeError
from appliance.engine.builder_link import BuilderLink
from appliance.engine.events import Answered, CallId, Copy, Failed, SendInOrder
from appliance.engine.lanes import Parcel
from appliance.engine.metrics import EngineMetrics
from appliance.engine.outcomes import Outcome
from appliance.engine.parcels import parcel_of_copy, parcel_of_order
from appliance.engine.upstream import Upstream
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, FakeUpstream, accepts, answers, gated, hangs
from tests.support.ports import held_address


class Bench:
    """A link to a fake builder; ``outcomes`` as they are reported."""

    def __init__(self, builder: FakeUpstream, link: BuilderLink, outcomes: trio.MemoryReceiveChannel[Outcome]) -> None:
        self.builder, self.link, self.outcomes = builder, link, outcomes

    async def outcome(self) -> Outcome:
        with trio.fail_after(SOON_S):
            return await self.outcomes.receive()

    async def failures(self, count: int) -> None:
        """Return when so many calls have failed."""
        with trio.fail_after(SOON_S):
            while int(str(self.link.upstream.statistics()["failures"])) < count:
                await trio.lowlevel.checkpoint()

    def copy(self, body: bytes, *, kind: str | None = None, lasting: bool = False, in_order: bool = True) -> None:
        assert self.link.put(parcel_of_copy(Copy(body, kind, lasting, in_order)), in_order=in_order) == []

    def order(self, body: bytes, call_id: int) -> list[Failed]:
        return self.link.put(parcel_of_order(SendInOrder(CallId(call_id), "alpha", body)), in_order=True)


@asynccontextmanager
async def bench(timeout_s: float = SOON_S) -> AsyncIterator[Bench]:
    builder = FakeUpstream("alpha", behaviours={"engine_forkchoiceUpdatedV3": accepts("0x0a")})
    metrics = EngineMetrics.create(CollectorRegistry())
    send, receive = trio.open_memory_channel[Outcome](100)
    with held_address() as builder.address:
        async with trio.open_nursery() as nursery, send, receive:
            await nursery.start(builder.run)
            async with Upstream("alpha", builder.url, builder.secret, metrics, timeout_s=timeout_s) as upstream:
                link = BuilderLink(upstream, send.send_nowait, metrics)
                nursery.start_soon(link.run)
                yield Bench(builder, link, receive)
                nursery.cancel_scope.cancel()


async def test_an_order_comes_behind_the_block_that_it_builds_on() -> None:
    gate = trio.Event()
    async with bench() as it:
        it.builder.behaviours["engine_newPayloadV4"] = gated(gate, answers(m.verdict()))
        it.copy(m.new_payload(m.Block("b")))
        it.order(m.build(), 1)
        await it.builder.wait_for("engine_newPayloadV4")
        assert it.builder.bodies("engine_forkchoiceUpdatedV3") == []
        gate.set()
        outcome = await it.outcome()
        assert isinstance(outcome, Answered)
        assert (outcome.call_id, outcome.status, outcome.body) == (1, 200, m.forkchoice_answer("0x0a"))
        assert outcome.origin == f"alpha {it.builder.url}"


async def test_an_order_that_fails_is_reported() -> None:
    async with bench(timeout_s=0.05) as it:
        it.builder.behaviours["engine_forkchoiceUpdatedV3"] = hangs
        it.order(m.build(), 7)
        outcome = await it.outcome()
        assert isinstance(outcome, Failed)
        assert outcome.call_id == 7
        assert "alpha" in outcome.reason
        assert "within 50 ms" in outcome.reason


async def test_a_newer_order_takes_the_place_of_one_that_waits() -> None:
    async with bench() as it:
        it.builder.behaviours["engine_newPayloadV4"] = hangs
        it.copy(m.new_payload(m.Block("b")))
        await it.builder.wait_for("engine_newPayloadV4")
        assert it.order(m.build(), 1) == []
        assert it.order(m.build(), 2) == [Failed(CallId(1), "alpha: a newer order took its place")]


async def test_transactions_do_not_wait_behind_blocks() -> None:
    async with bench() as it:
        it.builder.behaviours["engine_newPayloadV4"] = hangs
        it.copy(m.new_payload(m.Block("b")))
        it.copy(m.request("eth_sendRawTransaction", ["0x01"]), in_order=False)
        assert len(await it.builder.wait_for("eth_sendRawTransaction")) == 1


async def test_a_lasting_setting_is_sent_until_it_arrives_and_others_are_not() -> None:
    async with bench() as it:
        await it.builder.stop()
        setting = m.request("miner_setExtra", ["0x01"])
        it.copy(m.request("eth_sendRawTransaction", ["0x01"]), in_order=False)
        await it.failures(1)
        it.copy(setting, kind="miner_setExtra", lasting=True, in_order=False)
        await it.failures(3)
        async with trio.open_nursery() as nursery:
            await nursery.start(it.builder.run)
            assert await it.builder.wait_for("miner_setExtra") == [setting]
            assert it.builder.bodies("eth_sendRawTransaction") == []
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [400, 404, 405, 413])
async def test_a_setting_that_is_refused_for_good_is_not_sent_again(status: int) -> None:
    async with bench() as it:
        it.builder.behaviours["miner_setExtra"] = answers(b"no such method", status)
        it.copy(m.request("miner_setExtra", ["0x01"]), kind="miner_setExtra", lasting=True, in_order=False)
        it.copy(m.request("miner_setGasLimit", ["0x01"]), kind="miner_setGasLimit", lasting=True, in_order=False)
        await it.builder.wait_for("miner_setGasLimit")
        assert len(it.builder.bodies("miner_setExtra")) == 1
        assert it.link.statistics()["waiting"] == 0


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
async def test_a_setting_that_may_be_taken_later_is_sent_again_and_holds_nothing_up(status: int) -> None:
    async with bench() as it:
        it.builder.behaviours["miner_setExtra"] = answers(b"not now", status)
        it.copy(m.request("miner_setExtra", ["0x01"]), kind="miner_setExtra", lasting=True, in_order=False)
        await it.builder.wait_for("miner_setExtra", 2)
        for number in range(3):
            it.copy(m.request("eth_sendRawTransaction", [hex(number)]), in_order=False)
        it.copy(m.request("miner_setGasLimit", ["0x01"]), kind="miner_setGasLimit", lasting=True, in_order=False)
        await it.builder.wait_for("eth_sendRawTransaction", 3)
        await it.builder.wait_for("miner_setGasLimit")
        it.builder.behaviours["miner_setExtra"] = answers(m.result(True))
        with trio.fail_after(SOON_S):
            while it.link.statistics()["waiting"]:
                await trio.lowlevel.checkpoint()


async def test_a_body_that_cannot_be_made_is_dropped_and_the_next_goes_out() -> None:
    def refuse() -> bytes:
        raise DecodeError("getPayload answer: too deep")

    async with bench() as it:
        it.link.put(Parcel(refuse, size=1), in_order=True)
        it.copy(m.new_payload(m.Block("b")))
        assert await it.builder.wait_for("engine_newPayloadV4") == [m.new_payload(m.Block("b"))]


async def test_statistics_tell_what_waits() -> None:
    async with bench() as it:
        it.builder.behaviours["engine_newPayloadV4"] = hangs
        it.copy(m.new_payload(m.Block("sent")))
        await it.builder.wait_for("engine_newPayloadV4")
        for number in range(20):
            it.copy(m.new_payload(m.Block(f"b{number}")))
        report = it.link.statistics()
        assert (report["name"], report["waiting"], report["dropped"]) == ("alpha", 16, 4)


# --- settings are said again to a builder that may have forgotten them ---


def setting(value: str, method: str = "miner_setExtra") -> bytes:
    return m.request(method, [value])


async def set_both(it: Bench) -> None:
    for method in ("miner_setExtra", "miner_setGasLimit"):
        for value in ("0x01", "0x02"):
            it.copy(setting(value, method), kind=method, lasting=True, in_order=False)
            await it.builder.wait_for(method, 1 if value == "0x01" else 2)


async def replayed(it: Bench) -> list[bytes]:
    """What came of settings since `set_both`."""
    await it.builder.wait_for("miner_setGasLimit", 3)
    await it.builder.wait_for("miner_setExtra", 3)
    return [body for body in it.builder.requests if b"miner_" in body][4:]


async def test_a_restarted_builder_is_told_the_newest_settings_again() -> None:
    async with bench() as it:
        await set_both(it)
        await it.builder.stop()
        it.copy(m.new_payload(m.Block("missed")))
        await it.failures(1)
        async with trio.open_nursery() as nursery:
            await nursery.start(it.builder.run)
            it.copy(m.new_payload(m.Block("next")))
            assert await replayed(it) == [setting("0x02"), setting("0x02", "miner_setGasLimit")]
            nursery.cancel_scope.cancel()


async def test_a_probe_that_finds_an_older_head_has_the_settings_said_again() -> None:
    async with bench() as it:
        await set_both(it)
        for head in (7, 8):
            it.link.probed(head)
        it.link.probed(3)
        assert await replayed(it) == [setting("0x02"), setting("0x02", "miner_setGasLimit")]


async def test_a_probe_that_finds_it_back_has_the_settings_said_again() -> None:
    async with bench() as it:
        await set_both(it)
        for head in (7, None, 7):
            it.link.probed(head)
        assert await replayed(it) == [setting("0x02"), setting("0x02", "miner_setGasLimit")]
        assert it.link.statistics()["settings"] == ["miner_setExtra", "miner_setGasLimit"]


async def test_a_builder_that_never_reads_holds_a_bounded_queue() -> None:
    async with bench() as it:
        it.builder.behaviours["engine_newPayloadV4"] = hangs
        it.builder.behaviours["eth_sendRawTransaction"] = hangs
        it.builder.behaviours["miner_setExtra"] = hangs
        it.copy(setting("first"), kind="miner_setExtra", lasting=True, in_order=False)
        await it.builder.wait_for("miner_setExtra")
        it.copy(m.new_payload(m.Block("sent")))
        it.copy(m.request("eth_sendRawTransaction", ["0x01"]), in_order=False)
        await it.builder.wait_for("engine_newPayloadV4")
        await it.builder.wait_for("eth_sendRawTransaction")
        for number in range(2_000):
            it.copy(m.new_payload(m.Block(f"b{number}")))
            it.copy(m.forkchoice(), kind="forkchoice")
            it.copy(m.request("eth_sendRawTransaction", [hex(number)]), in_order=False)
            it.copy(setting(hex(number)), kind="miner_setExtra", lasting=True, in_order=False)
        waiting = it.link.statistics()["waiting"]
        assert isinstance(waiting, int)
        assert waiting <= 16 + 256 + 1
