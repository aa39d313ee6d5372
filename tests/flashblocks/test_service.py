"""The plane as a whole: engine's calls on one side, websockets on the other, log and EL behind."""

import contextlib
import functools
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import EquivocationError, LogError, UnavailableError
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus
from appliance.engine.ports import FlashblockStream
from appliance.flashblocks import service as service_module
from appliance.flashblocks.assembly import assemble
from appliance.flashblocks.ingest import BuilderSource
from appliance.flashblocks.ports import FlashblockSink, Messages
from appliance.flashblocks.service import PAUSED_EVERY_S, FlashblockService, FlashblockSettings
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.net import websocket_client
from appliance.net.websocket_client import messages
from tests.flashblocks.fakes import FakeBuilders, FakeLog, FakeValidator, new_metrics
from tests.flashblocks.making import NUMBER, StartedBuild, hash_of, make_flashblock, payload_id
from tests.support.blocks import block_hash, compressed, unichain_messages, unichain_new_payload

P = payload_id(1)
UNICHAIN_ID = PayloadId("0x03c446f063e3735a")
STRUCTURAL = FlashblockSettings(execution=False)
EXECUTION = FlashblockSettings(execution=True)
URLS = {"alpha": "ws://alpha.test/", "beta": "ws://beta.test/"}


@dataclass
class Plane:
    """The service between fakes."""

    service: FlashblockService
    builders: FakeBuilders
    log: FakeLog
    validator: FakeValidator
    registry: CollectorRegistry

    def begin(self, build: int = 1, payload: PayloadId = P, *names: str) -> None:
        """A confirmed build that these builders (or alpha) have joined."""
        self.service.build_started(StartedBuild(BuildId(build)))
        self.service.build_confirmed(BuildId(build))
        for name in names or ("alpha",):
            self.service.builder_joined(BuildId(build), name, payload)

    def receive(self, index: int, payload: PayloadId = P, builder: str = "alpha", content: str = "") -> Flashblock:
        flashblock = make_flashblock(payload, index, content or builder)
        self.service.flashblock_received(builder, flashblock)
        return flashblock

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"flashblocks_{name}", labels)
        assert value is not None
        return value


def make_plane(settings: FlashblockSettings = STRUCTURAL) -> Plane:
    registry, metrics = new_metrics()
    builders, log, validator = FakeBuilders(), FakeLog(), FakeValidator()
    service = FlashblockService(
        settings,
        [BuilderSource(name, url) for name, url in URLS.items()],
        sink=log,
        validator=validator,
        metrics=metrics,
        connect=builders.connect,
    )
    return Plane(service, builders, log, validator, registry)


@asynccontextmanager
async def running(settings: FlashblockSettings = STRUCTURAL) -> AsyncIterator[Plane]:
    plane = make_plane(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.service.run)
        for url in URLS.values():
            await plane.builders.wait_connected(url)
        yield plane
        nursery.cancel_scope.cancel()


def test_it_is_what_the_engine_needs_and_the_log_is_what_it_needs() -> None:
    stream: FlashblockStream = make_plane().service
    sink: type[FlashblockSink] = FlashLog
    assert stream.seal(BuildId(1)) is None
    assert sink


# Real input


@pytest.mark.parametrize("settings", [STRUCTURAL, EXECUTION], ids=["structural", "execution"])
async def test_the_real_block_goes_through_byte_for_byte_and_is_assembled(
    settings: FlashblockSettings, autojump_clock: trio.testing.MockClock
) -> None:
    payload, _hashes, root, _requests = unichain_new_payload()["params"]
    build = StartedBuild(BuildId(1), payload["parentHash"], int(payload["timestamp"], 16))
    bodies = [compressed(body) if number % 2 else body for number, body in enumerate(unichain_messages())]
    async with running(settings) as plane:
        plane.builders.send(URLS["alpha"], bodies[0])
        plane.service.build_started(build)
        plane.service.builder_joined(build.build_id, "alpha", UNICHAIN_ID)
        plane.service.build_confirmed(build.build_id)
        for number, body in enumerate(bodies[1:], 1):
            plane.builders.send(URLS["alpha"], body, is_binary=bool(number % 2))
        await plane.log.wait_entries(5)
        sealed = plane.service.seal(build.build_id)
        assert sealed is not None
        plane.service.payload_returned(build.build_id, sealed.block_hash)
        plane.service.head_changed(sealed.block_hash, sealed.block_number)
        await plane.log.wait_for(lambda log: len(log.states) == 2)
    assert plane.log.bodies == bodies
    assert json.loads(sealed.execution_payload) == payload
    assert sealed.block_hash == block_hash(payload, root)
    assert sealed.validated is settings.execution
    assert len(plane.validator.asked) == (5 if settings.execution else 0)
    assert plane.log.states == [
        (UNICHAIN_ID, PayloadState.SEALED, None),
        (UNICHAIN_ID, PayloadState.LANDED, sealed.block_hash),
    ]


# Races with getPayload


async def test_an_append_that_waits_for_the_disk_is_in_the_block_and_is_shown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as plane:
        plane.begin()
        plane.receive(0)
        await plane.log.wait_entries(1)
        plane.log.disk = trio.Event()
        second = plane.receive(1)
        plane.receive(2)
        await plane.log.wait_for(lambda log: log.waiting == 1)
        sealed = plane.service.seal(BuildId(1))
        plane.log.disk.set()
        await plane.log.wait_for(lambda log: bool(log.states))
    assert sealed is not None
    assert sealed.flashblocks == 2
    assert plane.log.bodies[1:] == [second.body]
    assert plane.metric("service_dropped_total", reason="unpublished") == 1


async def test_a_flashblock_under_validation_when_getpayload_comes_is_never_shown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(EXECUTION) as plane:
        plane.begin()
        plane.receive(0)
        await plane.log.wait_entries(1)
        plane.validator.gate = trio.Event()
        plane.receive(1)
        await plane.validator.wait_asked(2)
        sealed = plane.service.seal(BuildId(1))
        plane.validator.gate.set()
        await trio.sleep(5)
    assert sealed is not None
    assert (sealed.flashblocks, len(plane.log.entries)) == (1, 1)
    assert len(plane.validator.answered) == 2


async def test_flashblocks_after_the_fence_are_late(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as plane:
        plane.begin()
        plane.receive(0)
        await plane.log.wait_entries(1)
        plane.service.seal(BuildId(1))
        plane.receive(1)
        plane.receive(2)
        await trio.sleep(1)
    assert len(plane.log.entries) == 1
    assert plane.metric("service_dropped_total", reason="late") == 2
    assert plane.metric("service_current_payload_id_mismatch") == 2


async def test_the_engine_is_never_kept_waiting_by_a_disk_that_hangs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as plane:
        plane.log.disk = trio.Event()
        for number in range(1, 101):
            plane.begin(number, payload_id(number))
            plane.receive(0, payload_id(number))
            plane.service.seal(BuildId(number))
        await trio.sleep(1)
        assert len(plane.service._log_work) < 20
        plane.log.disk.set()
        plane.begin(101, payload_id(101))
        plane.receive(0, payload_id(101))
        await plane.log.wait_entries(2)
    assert [entry.payload_id for entry in plane.log.entries] == [payload_id(1), payload_id(101)]


# The log and the EL fail


async def test_a_full_disk_pauses_the_payload_and_the_next_one_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with capture_logs() as lines:
        async with running() as plane:
            plane.begin()
            plane.receive(0)
            await plane.log.wait_entries(1)
            plane.log.failures.append(LogError("no space left on device"))
            for index in (1, 2, 3):
                plane.receive(index)
            await trio.sleep(1)
            sealed = plane.service.seal(BuildId(1))
            plane.begin(2, payload_id(2))
            plane.receive(0, payload_id(2))
            await plane.log.wait_entries(2)
    assert sealed is not None
    assert sealed.flashblocks == 1
    assert [(entry.payload_id, entry.index) for entry in plane.log.entries] == [(P, 0), (payload_id(2), 0)]
    events = [line["event"] for line in lines]
    assert events.count("flashblock not logged") == 1
    assert events.count("flashblock stream paused") == 1
    assert plane.metric("service_paused_total", reason="log_failed") == 1


async def test_another_body_in_the_log_lets_the_other_builder_lead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as plane:
        plane.log.failures.append(EquivocationError("another body is there"))
        plane.begin(1, P, "alpha", "beta")
        plane.receive(0, builder="alpha")
        plane.receive(0, builder="beta")
        plane.receive(1, builder="beta")
        await plane.log.wait_entries(2)
    assert plane.log.builders == ["beta", "beta"]
    assert plane.metric("service_paused_total", reason="log_equivocation") == 1


async def test_a_state_that_cannot_be_logged_stops_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as plane:
        plane.begin()
        plane.receive(0)
        await plane.log.wait_entries(1)
        plane.log.failures.append(LogError("no space left on device"))
        plane.service.seal(BuildId(1))
        plane.service.head_changed(hash_of("other"), NUMBER)
        await plane.log.wait_for(lambda log: bool(log.states))
    assert plane.log.states == [(P, PayloadState.DROPPED, None)]


async def test_an_el_that_does_not_answer_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running(EXECUTION) as plane:
        plane.validator.verdicts = [UnavailableError("connection refused"), PayloadStatus.SYNCING]
        plane.begin()
        plane.receive(0)
        started = trio.current_time()
        await plane.log.wait_entries(1)
        assert trio.current_time() - started == pytest.approx(0.2)
    assert len(plane.validator.asked) == 3


async def test_an_invalid_flashblock_is_never_shown(autojump_clock: trio.testing.MockClock) -> None:
    async with running(EXECUTION) as plane:
        plane.validator.verdicts = [PayloadStatus.VALID, PayloadStatus.INVALID]
        plane.begin()
        for index in range(4):
            plane.receive(index)
        await plane.log.wait_entries(1)
        await trio.sleep(5)
    assert len(plane.log.entries) == 1
    assert plane.metric("service_paused_total", reason="invalid") == 1


# Life


async def test_calls_before_it_runs_are_carried_out_when_it_does(autojump_clock: trio.testing.MockClock) -> None:
    plane = make_plane(EXECUTION)
    plane.begin()
    plane.receive(0)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.service.run)
        await plane.log.wait_entries(1)
        nursery.cancel_scope.cancel()
    assert len(plane.validator.asked) == 1


@pytest.mark.parametrize("settings", [STRUCTURAL, EXECUTION], ids=["structural", "execution"])
async def test_after_a_restart_of_the_plane_nothing_is_lost_and_nothing_is_twice(
    settings: FlashblockSettings, autojump_clock: trio.testing.MockClock
) -> None:
    plane = make_plane(settings)
    plane.begin()
    plane.log.disk, plane.validator.gate = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.service.run)
        plane.receive(0)
        plane.receive(1)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert plane.log.entries == []
    plane.receive(2)
    plane.log.disk.set()
    plane.validator.gate.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.service.run)
        await plane.log.wait_entries(3)
        nursery.cancel_scope.cancel()
    assert [entry.index for entry in plane.log.entries] == [0, 1, 2]


@asynccontextmanager
async def about_to_stop(plane: Plane) -> AsyncIterator[trio.Event]:
    """Runs the plane; the event is set after the body, and it has to end by itself."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(plane.service.run, stopping=stopping))
        yield stopping
        stopping.set()


@pytest.mark.parametrize("settings", [STRUCTURAL, EXECUTION], ids=["structural", "execution"])
async def test_what_was_handed_to_the_log_is_logged_before_the_plane_ends(
    settings: FlashblockSettings, autojump_clock: trio.testing.MockClock
) -> None:
    plane = make_plane(settings)
    plane.log.delay_s = lambda: 0.2
    async with about_to_stop(plane):
        plane.begin()
        plane.receive(0)
        plane.receive(1)
        await plane.log.wait_entries(1)
        await plane.log.wait_for(lambda log: log.waiting == 1)
        sealed = plane.service.seal(BuildId(1))
        assert sealed is not None
        plane.service.head_changed(sealed.block_hash, sealed.block_number)
    assert [entry.index for entry in plane.log.entries] == [0, 1]
    assert [state for _, state, _ in plane.log.states] == [PayloadState.SEALED, PayloadState.LANDED]
    assert plane.service.statistics()["sources"] is not None
    assert not plane.builders._connections


async def test_at_the_end_no_el_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    plane = make_plane(EXECUTION)
    plane.validator.gate = trio.Event()
    async with about_to_stop(plane):
        plane.begin()
        plane.receive(0)
        await plane.validator.wait_asked(1)
        asked_at = trio.current_time()
    assert trio.current_time() - asked_at < 0.01
    assert plane.log.entries == []


async def test_a_disk_that_hangs_holds_the_end_up_for_one_second(autojump_clock: trio.testing.MockClock) -> None:
    plane = make_plane()
    plane.log.disk = trio.Event()
    with capture_logs() as lines:
        async with about_to_stop(plane):
            plane.begin()
            plane.receive(0)
            await plane.log.wait_for(lambda log: log.waiting == 1)
            stopped_at = trio.current_time()
    assert trio.current_time() - stopped_at == pytest.approx(1.0)
    assert [line["left"] for line in lines if line["event"] == "not everything is logged at the end"] == [1]


async def test_a_builder_that_reconnects_in_mid_payload_leaves_the_stream_paused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    payload = unichain_new_payload()["params"][0]
    build = StartedBuild(BuildId(1), payload["parentHash"], int(payload["timestamp"], 16))
    messages = unichain_messages()
    async with running() as plane:
        plane.service.build_started(build)
        plane.service.build_confirmed(build.build_id)
        for name in URLS:
            plane.service.builder_joined(build.build_id, name, UNICHAIN_ID)
        for body in messages[:2]:
            plane.builders.send(URLS["alpha"], body)
        await plane.log.wait_entries(2)
        plane.builders.hang_up(URLS["alpha"])
        await plane.builders.wait_for(lambda: URLS["alpha"] not in plane.builders._connections)
        plane.builders.send(URLS["alpha"], messages[2])
        await plane.builders.wait_connected(URLS["alpha"])
        for body in messages[3:]:
            plane.builders.send(URLS["alpha"], body)
        for body in messages:
            plane.builders.send(URLS["beta"], body)
        await trio.sleep(1)
        sealed = plane.service.seal(build.build_id)
    assert plane.log.bodies == messages[:2]
    assert plane.metric("service_dropped_total", reason="gap") == 2
    assert sealed is not None
    assert (sealed.builder, sealed.flashblocks) == ("alpha", 2)
    assert plane.metric("service_flashblocks_gauge") == 2
    assert plane.metric("service_flashblocks_missing_histogram_sum") == 3


async def test_statistics_and_metrics_tell_what_happens(autojump_clock: trio.testing.MockClock) -> None:
    async with running(EXECUTION) as plane:
        plane.begin()
        for index in range(3):
            plane.receive(index)
        plane.receive(5)
        await plane.log.wait_entries(3)
        statistics = json.loads(json.dumps(plane.service.statistics()))
    assert statistics["validation"] == "execution"
    assert statistics["stream"]["published"] == 3
    assert statistics["sources"]["alpha"]["connected"] is True
    assert plane.metric("service_messages_processed") == 4
    assert plane.metric("service_extend_payload_errors") == 1
    assert plane.metric("service_published_total", builder="alpha") == 3
    for name in ("append", "validate", "publish"):
        assert plane.metric(f"service_{name}_seconds_count") == 3


# Promises under random delays


@pytest.mark.parametrize("settings", [STRUCTURAL, EXECUTION], ids=["structural", "execution"])
@pytest.mark.parametrize("seed", range(25))
async def test_whatever_is_slow_the_log_holds_what_was_promised(
    settings: FlashblockSettings, seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    chance = random.Random(seed)
    sealed = {}
    async with running(settings) as plane:
        plane.log.delay_s = lambda: chance.choice((0.0, 0.001, 0.05, 0.4))
        plane.validator.delay_s = lambda: chance.choice((0.0, 0.01, 0.15, 0.6))
        for number in range(1, 9):
            sealed[number] = await one_slot(plane, number, chance)
        await trio.sleep(10)
    for number, answer in sealed.items():
        entries = [entry for entry in plane.log.entries if entry.payload_id == payload_id(number)]
        builders = {
            builder
            for entry, builder in zip(plane.log.entries, plane.log.builders, strict=True)
            if entry.payload_id == payload_id(number)
        }
        assert [entry.index for entry in entries] == list(range(len(entries)))
        assert len(builders) <= 1
        assert (answer is None) is (not entries)
        if answer is not None:
            shown = [make_flashblock(payload_id(number), entry.index, *builders) for entry in entries]
            assert answer == assemble(shown, builder=answer.builder, validated=settings.execution)
            assert answer.builder in builders


async def one_slot(plane: Plane, number: int, chance: random.Random) -> AssembledPayload | None:
    """One second of building by two builders with equal payload ids, answers in any order, then getPayload."""
    payload, build = payload_id(number), StartedBuild(BuildId(number))

    async def after(delay_s: float, action: object, *args: object) -> None:
        await trio.sleep(delay_s)
        assert callable(action)
        action(*args)

    async def stream(builder: str, delay_s: float) -> None:
        await trio.sleep(delay_s)
        for index in range(5):
            plane.receive(index, payload, builder)
            await trio.sleep(chance.uniform(0, 0.4))

    plane.service.build_started(build)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, chance.uniform(0, 0.5), plane.service.build_confirmed, build.build_id)
        for name in URLS:
            nursery.start_soon(
                after, chance.uniform(0, 0.8), plane.service.builder_joined, build.build_id, name, payload
            )
            nursery.start_soon(stream, name, chance.uniform(0, 0.5))
        await trio.sleep(1)
        return plane.service.seal(build.build_id)


# The real websocket client and the real log


@pytest.mark.parametrize(("scheme", "expected"), [("wss", 1), ("WSS", 1), ("ws", 0)])
async def test_certificate_authorities_are_loaded_once_not_per_reconnect(
    scheme: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ssl.SSLContext] = []
    attempts: list[str] = []
    enough = trio.Event()

    def connect(url: str, **settings: Any) -> AbstractAsyncContextManager[Messages]:
        attempts.append(url)
        if len(attempts) == 6:
            enough.set()
        return messages(url, **settings)

    def load() -> ssl.SSLContext:
        loaded.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return loaded[-1]

    monkeypatch.setattr(ssl, "create_default_context", load)
    monkeypatch.setattr(service_module, "client_context", functools.cache(load))
    monkeypatch.setattr(websocket_client, "client_context", ssl.create_default_context)
    monkeypatch.setattr(service_module, "messages", connect)
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{nobody_listens.getsockname()[1]}/"
        service = FlashblockService(
            STRUCTURAL,
            [BuilderSource(name, url) for name in ("alpha", "beta")],
            sink=FakeLog(),
            validator=FakeValidator(),
            metrics=new_metrics()[1],
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            with trio.fail_after(60):
                await enough.wait()
            nursery.cancel_scope.cancel()
    assert len(loaded) == expected


async def serve_capture(request: WebSocketRequest) -> None:
    """A builder that sends the captured block to whoever connects, then stays silent."""
    with contextlib.suppress(ConnectionClosed):
        connection = await request.accept()
        for number, body in enumerate(unichain_messages()):
            await connection.send_message(compressed(body) if number % 2 else body.decode())
        await connection.get_message()


async def test_a_second_body_for_a_key_that_is_on_disk_is_kept_as_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "DRAIN_S", 60.0)  # the disk is real, and may be slow
    plane = make_plane()
    async with open_flashlog(tmp_path) as flashlog:
        plane.service._sink = flashlog
        with trio.fail_after(60):
            async with about_to_stop(plane):
                plane.begin()
                plane.receive(0)
                plane.receive(1)  # is logged when it is known that the one before it was
                await flashlog.wait_past(1)
                second, _third = plane.receive(0, content="other"), plane.receive(0, content="third")
        evidence = await flashlog.evidence()
        assert flashlog.head == 2
    assert [refused.body for refused in evidence] == [second.body]


async def test_from_a_real_websocket_into_the_real_log(tmp_path: Path) -> None:
    payload = unichain_new_payload()["params"][0]
    build = StartedBuild(BuildId(1), payload["parentHash"], int(payload["timestamp"], 16))
    async with trio.open_nursery() as nursery, open_flashlog(tmp_path) as flashlog:
        server = await nursery.start(serve_websocket, serve_capture, "127.0.0.1", 0, None)
        service = FlashblockService(
            EXECUTION,
            [BuilderSource("alpha", f"ws://127.0.0.1:{server.port}/")],
            sink=flashlog,
            validator=FakeValidator(),
            metrics=new_metrics()[1],
        )
        service.build_started(build)
        service.builder_joined(build.build_id, "alpha", UNICHAIN_ID)
        service.build_confirmed(build.build_id)
        await nursery.start(service.run)
        with trio.fail_after(60):
            while flashlog.head < 5:
                await flashlog.wait_past(flashlog.head)
        sealed = service.seal(build.build_id)
        entries = await flashlog.read(0, limit=10, max_bytes=1 << 20)
        nursery.cancel_scope.cancel()
    expected = [compressed(body) if number % 2 else body for number, body in enumerate(unichain_messages())]
    assert [entry.body for entry in entries] == expected
    assert sealed is not None
    assert json.loads(sealed.execution_payload) == payload


async def test_a_builder_that_invents_payloads_does_not_fill_the_log_with_warnings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as plane:
        with capture_logs() as lines:
            for _ in range(3):
                for number in range(100):
                    plane.receive(5, payload_id(1000 + number))
                await trio.sleep(PAUSED_EVERY_S)
    paused = [line["log_level"] for line in lines if line["event"] == "flashblock stream paused"]
    assert len(paused) == 300
    assert paused.count("warning") == 3
