"""A builder's websocket connection: what is delivered, and when it is given up and renewed."""

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import brotli
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from appliance.domain.errors import RemoteError
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.flashblocks.ingest import (
    BUDGET_BURST_BYTES,
    BUDGET_BYTES_PER_S,
    CONNECTION_COST_BYTES,
    LEAST_COST_BYTES,
    BuilderSource,
    ByteBudget,
    DataDeadline,
    Ingest,
)
from appliance.flashblocks.ports import Messages
from appliance.wire import flashblock as wire
from appliance.wire.flashblock import MAX_MESSAGE_BYTES
from tests.flashblocks.fakes import FakeBuilders, new_metrics
from tests.support.blocks import compressed, unichain_messages

URL = "ws://builder.test/"


@dataclass
class Running:
    """An ingest, its builder and what was delivered."""

    builders: FakeBuilders
    registry: CollectorRegistry
    building: bool = False
    delivered: list[tuple[str, Flashblock]] = field(default_factory=list)
    ingest: Ingest = field(init=False)
    changed: trio.Event = field(default_factory=trio.Event)

    def deliver(self, builder: str, flashblock: Flashblock) -> None:
        self.delivered.append((builder, flashblock))
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def wait_delivered(self, count: int) -> None:
        while len(self.delivered) < count:
            await self.changed.wait()

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(f"flashblocks_ws_inbound_{name}", {"builder": "alpha"})
        assert value is not None
        return value

    def count(self, name: str) -> object:
        return self.ingest.statistics()[name]


@asynccontextmanager
async def running(*, refused: bool = False) -> AsyncIterator[Running]:
    registry, metrics = new_metrics()
    run = Running(FakeBuilders(), registry)
    run.ingest = Ingest(
        BuilderSource("alpha", URL),
        connect=run.builders.connect,
        deliver=run.deliver,
        is_building=lambda _builder: run.building,
        metrics=metrics,
    )
    if refused:
        run.builders.refuse.add(URL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.ingest.run)
        if not refused:
            await run.builders.wait_connected(URL)
        yield run
        nursery.cancel_scope.cancel()


async def test_messages_are_delivered_in_order_as_they_came(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        for number, body in enumerate(unichain_messages()):
            if number % 2:
                run.builders.send(URL, compressed(body), is_binary=True)
            else:
                run.builders.send(URL, body)
        await run.wait_delivered(5)
    assert [builder for builder, _ in run.delivered] == ["alpha"] * 5
    assert [flashblock.index for _, flashblock in run.delivered] == list(range(5))
    assert run.delivered[0][1].body == unichain_messages()[0]
    assert run.delivered[1][1].body == compressed(unichain_messages()[1])
    assert run.delivered[1][1].encoding is Encoding.BROTLI
    assert run.metric("messages_received") == 5


async def test_garbage_is_counted_and_does_not_end_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as lines:
        async with running() as run:
            for garbage in (b"", b"{}", b"\x00\xff", b'{"payload_id":"0x00"}'):
                run.builders.send(URL, garbage, is_binary=garbage.startswith(b"\x00"))
            run.builders.send(URL, unichain_messages()[0])
            await run.wait_delivered(1)
            assert run.count("decode_errors") == 4
            assert run.count("connected")
    assert [line["event"] for line in lines].count("flashblock message refused") == 1
    assert run.metric("decode_errors_total") == 4
    assert run.metric("reconnect_attempts") == 0


async def test_an_end_message_is_counted_and_goes_no_further(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        run.builders.send(URL, b'{"payload_id":"0x03c446f063e3735a"}')
        run.builders.send(URL, unichain_messages()[0])
        await run.wait_delivered(1)
        assert run.count("payload_ends") == 1
        assert run.count("decode_errors") == 0


async def test_reconnects_wait_10_ms_doubling_to_5_s(autojump_clock: trio.testing.MockClock) -> None:
    async with running(refused=True) as run:
        await trio.sleep(30)
        times = run.builders.attempts
    waits = [round(later - earlier, 3) for earlier, later in pairwise(times)]
    assert waits[:10] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.0]
    assert set(waits[10:]) == {5.0}
    assert run.metric("reconnect_attempts") == len(times) - 1


async def test_a_message_makes_the_next_reconnect_quick_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running(refused=True) as run:
        await trio.sleep(20)
        run.builders.refuse.clear()
        await run.builders.wait_connected(URL)
        run.builders.send(URL, unichain_messages()[0])
        await run.wait_delivered(1)
        lost = trio.current_time()
        run.builders.hang_up(URL)
        attempts = len(run.builders.attempts)
        await run.builders.wait_for(lambda: len(run.builders.attempts) > attempts)
        assert run.builders.attempts[-1] - lost == pytest.approx(0.01)


async def test_a_server_that_accepts_and_hangs_up_at_once_is_not_hammered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as run:
        for _ in range(8):
            await run.builders.wait_connected(URL)
            run.builders.hang_up(URL, politely=True)
            await run.builders.wait_for(lambda: not run.builders._connections)
        await run.builders.wait_connected(URL)
        times = run.builders.attempts
    assert times[-1] - times[-2] == pytest.approx(1.28)


async def test_status_follows_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        assert (run.metric("connection_status"), run.count("connected")) == (1, True)
        assert "connected" in repr(run.ingest)
        run.builders.refuse.add(URL)
        run.builders.hang_up(URL)
        await run.builders.wait_for(lambda: not run.builders._connections)
        await trio.sleep(0.005)
        assert (run.metric("connection_status"), run.count("connected")) == (0, False)
        assert run.count("last_error") == "the builder hung up"
        assert "not connected" in repr(run.ingest)
        assert json.loads(json.dumps(run.ingest.statistics()))["url"] == URL


async def test_a_builder_that_is_down_for_long_is_one_log_line(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as lines:
        async with running(refused=True):
            await trio.sleep(60)
    assert [line["event"] for line in lines] == ["flashblock source lost"]
    assert lines[0]["reason"] == f"{URL} refused the connection"


async def test_a_half_open_connection_is_renewed_while_the_builder_builds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as run:
        run.building = True
        await trio.sleep(3.0)
        assert len(run.builders.attempts) == 1
        await trio.sleep(0.6)
        assert len(run.builders.attempts) == 2
        assert run.count("connected")
        assert run.count("last_error") == "no message while the builder was building"


async def test_silence_between_builds_is_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        await trio.sleep(600)
        assert len(run.builders.attempts) == 1


async def test_messages_keep_a_building_connection_alive(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        run.building = True
        for _ in range(60):
            await trio.sleep(0.2)
            run.builders.send(URL, unichain_messages()[0])
        assert len(run.builders.attempts) == 1


async def test_an_error_of_the_other_side_ends_only_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    def broken(_url: str) -> AbstractAsyncContextManager[Messages]:
        attempts.append(trio.current_time())
        raise RemoteError("that is no websocket")

    attempts: list[float] = []
    ingest = Ingest(
        BuilderSource("alpha", URL),
        connect=broken,
        deliver=lambda _builder, _flashblock: None,
        is_building=lambda _builder: False,
        metrics=new_metrics()[1],
    )
    with trio.move_on_after(1):
        await ingest.run()
    assert len(attempts) == 7


async def test_cancelling_leaves_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as run:
        pass
    assert run.metric("connection_status") == 0
    assert not run.builders._connections


def padded(size: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:-1] + b',"padding":"' + b"x" * size + b'"}'


async def test_large_messages_keep_their_order() -> None:
    large = [padded(400_000 * (1 - number % 2))(body) for number, body in enumerate(unichain_messages())]
    async with running() as run:
        for body in large:
            run.builders.send(URL, body)
        await run.wait_delivered(5)
    assert [flashblock.body for _, flashblock in run.delivered] == large


async def test_a_small_message_that_unfolds_to_much_does_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unfolded or decoded on the loop's own thread is at most 256 KiB."""
    loop, on_loop = threading.get_ident(), []
    parse = wire._parse

    def noted(text: bytes) -> wire._Message:
        if threading.get_ident() == loop:
            on_loop.append(len(text))
        return parse(text)

    monkeypatch.setattr(wire, "_parse", noted)
    bodies = [brotli.compress(padded(size)(unichain_messages()[0]), quality=5) for size in (0, 1_000_000, 200_000)]
    assert max(map(len, bodies)) < 32 * 1024
    async with running() as run:
        for body in bodies:
            run.builders.send(URL, body, is_binary=True)
        await run.wait_delivered(3)
    assert [flashblock.body for _, flashblock in run.delivered] == bodies
    assert len(on_loop) == 2
    assert max(on_loop) < 256 * 1024


async def test_a_builder_that_sends_too_much_is_dropped_and_its_next_connection_is_served(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The clock stands still while threads unfold: how quick they are would decide what is left of the budget."""
    large = brotli.compress(unichain_messages()[0].ljust(MAX_MESSAGE_BYTES), quality=5)
    async with running() as run:
        for _ in range(BUDGET_BURST_BYTES // MAX_MESSAGE_BYTES * 2):
            run.builders.send(URL, large, is_binary=True)
        await run.builders.wait_for(lambda: not run.builders._connections)
        assert run.count("last_error") == "more flashblock bytes or messages than a builder may send"
        assert len(run.delivered) == (BUDGET_BURST_BYTES - CONNECTION_COST_BYTES) // MAX_MESSAGE_BYTES
        mock_clock.jump(BUDGET_BURST_BYTES / BUDGET_BYTES_PER_S)
        await run.builders.wait_connected(URL)
        delivered = len(run.delivered)
        run.builders.send(URL, unichain_messages()[1])
        await run.wait_delivered(delivered + 1)


async def test_what_cannot_be_unfolded_is_paid_for_too(mock_clock: trio.testing.MockClock) -> None:
    bomb = brotli.compress(b" " * (4 * MAX_MESSAGE_BYTES))
    async with running() as run:
        for _ in range(BUDGET_BURST_BYTES // MAX_MESSAGE_BYTES * 2):
            run.builders.send(URL, bomb, is_binary=True)
        await run.builders.wait_for(lambda: not run.builders._connections)
    assert run.delivered == []


async def test_a_flood_of_tiny_messages_is_dropped_and_reconnected_to_ever_more_slowly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each counts as much as its decoding costs: 80,000 a second took a whole core."""
    async with running() as run:
        for _ in range(2):
            for _ in range(BUDGET_BURST_BYTES // LEAST_COST_BYTES + 100):
                run.builders.send(URL, b"{}")
            await run.builders.wait_for(lambda: not run.builders._connections)
            assert run.count("last_error") == "more flashblock bytes or messages than a builder may send"
            await run.builders.wait_connected(URL)
        assert run.metric("messages_received") < BUDGET_BURST_BYTES // LEAST_COST_BYTES + 500
        await trio.sleep(1)
        run.builders.send(URL, unichain_messages()[0])
        await run.wait_delivered(1)


async def test_a_builder_that_hangs_up_after_each_message_is_not_reconnected_to_for_ever_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each message made the next reconnect a quick one: a hundred handshakes a second."""
    async with running() as run:
        begin, until = trio.current_time(), 60.0
        while trio.current_time() < begin + until:
            await run.builders.wait_connected(URL)
            run.builders.send(URL, b"{}")
            run.builders.hang_up(URL)
            await run.builders.wait_for(lambda: not run.builders._connections)
        bound = (BUDGET_BURST_BYTES + until * BUDGET_BYTES_PER_S) / CONNECTION_COST_BYTES
        assert len(run.builders.attempts) <= bound + 1
        assert len(run.builders.attempts) >= 100, "but it is reconnected to"


def _spent(size: int, now: float) -> ByteBudget:
    budget = ByteBudget()
    assert budget.spend(size, now)
    return budget


def test_a_budget_that_is_nearly_spent_is_not_ample() -> None:
    assert _spent(1, 0.0).is_ample
    budget = _spent(BUDGET_BURST_BYTES, 0.0)
    assert not budget.is_ample
    assert budget.spend(1, 2.0)
    assert budget.is_ample, "4 MiB a second come back"


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, MAX_MESSAGE_BYTES)), max_size=40))
def test_the_budget_is_a_burst_and_then_so_many_bytes_per_second(messages: list[tuple[float, int]]) -> None:
    budget, now, taken = ByteBudget(), 1000.0, 0
    for elapsed_s, size in messages:
        now += elapsed_s
        taken += size if budget.spend(size, now) else 0
        assert taken <= BUDGET_BURST_BYTES + (now - 1000.0) * BUDGET_BYTES_PER_S + 1
    assert budget.spend(BUDGET_BURST_BYTES, now + BUDGET_BURST_BYTES / BUDGET_BYTES_PER_S + 1)
    assert not budget.spend(1_000_000, now)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.sampled_from(["message", "building", "idle"])), max_size=40))
def test_the_data_deadline_counts_building_time_since_the_last_message(events: list[tuple[float, str]]) -> None:
    deadline, silent_s = DataDeadline(3.0), 0.0
    for elapsed_s, event in events:
        if event == "message":
            deadline.restart()
            silent_s = 0.0
        else:
            silent_s += elapsed_s if event == "building" else 0.0
            assert deadline.passes(elapsed_s, is_building=event == "building") is (silent_s > 3.0)
