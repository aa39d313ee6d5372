"""The devnet of a capture: the EL that judges, the builder that streams, and an op-node that drives an engine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from appliance.devnet.capture import CapturedPayload
from appliance.devnet.endpoints import ANY_PORT, Endpoint, secret_in
from appliance.devnet.engine_client import EngineClient, open_engine_client
from appliance.devnet.messages import ExecutionPayload, RpcError, decode_as, forkchoice_json, quantity
from appliance.devnet.node import SlotReport
from appliance.devnet.replay import Capture, ReplayBuilder, ReplayExecutionClient
from appliance.domain.errors import UnavailableError
from appliance.wire import jwt

STREAM_GRACE_S: Final = 5.0  # a stream that takes this much longer than its pace was never started


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """`interval_s` between messages; `settle_s` from the last one to getPayload, both in seconds."""

    interval_s: float = 0.2
    settle_s: float = 0.3
    builder: str = "replay"
    el_address: str = ANY_PORT
    builder_address: str = ANY_PORT
    flashblocks_address: str = ANY_PORT


class Replay:
    """The devnet of a capture, with the same face as `Devnet`: EL, one builder, and an op-node driver."""

    def __init__(
        self,
        capture: Capture,
        folder: Path,
        settings: ReplaySettings | None = None,
        *,
        on_slot: Callable[[SlotReport], None] = lambda _report: None,
    ) -> None:
        self.settings = settings or ReplaySettings()
        self.capture = tuple(capture)
        self.reports: list[SlotReport] = []
        self._folder = folder
        self._on_slot = on_slot
        self._nursery: trio.Nursery | None = None
        self.el = ReplayExecutionClient(self.capture, secret=secret_in(folder, "el")[1])
        name = self.settings.builder
        self.builder = ReplayBuilder(
            self.capture,
            name=name,
            secret=secret_in(folder, name)[1],
            interval_s=self.settings.interval_s,
            flashblocks_address=self.settings.flashblocks_address,
        )

    async def run(
        self,
        *,
        stopping: trio.Event | None = None,
        task_status: trio.TaskStatus["Replay"] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stopping`; `started()` gives the replay once all ports are open."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.el.run, self.settings.el_address)
            await nursery.start(self.builder.run, self.settings.builder_address)
            task_status.started(self)
            await (trio.Event() if stopping is None else stopping).wait()
            nursery.cancel_scope.cancel()

    @property
    def el_endpoint(self) -> Endpoint:
        """The execution client, for `[engine.l2]`."""
        return Endpoint(self.el.name, self.el.url, secret_in(self._folder, self.el.name)[0])

    @property
    def builder_endpoints(self) -> tuple[Endpoint, ...]:
        """The builder, for `[[engine.builders]]`."""
        name = self.builder.name
        secret_file = secret_in(self._folder, name)[0]
        return (Endpoint(name, self.builder.url, secret_file, self.builder.flashblocks_url),)

    async def drive(self, engine_url: str, secret_file: Path) -> list[SlotReport]:
        """Play op-node for each captured payload in turn; returns when the last one has its block."""
        async with open_engine_client(engine_url, jwt.load_secret(secret_file)) as engine:
            for captured in self.capture:
                report = await self._drive_one(engine, captured)
                self.reports.append(report)
                self._on_slot(report)
        return self.reports

    async def _drive_one(self, engine: EngineClient, captured: CapturedPayload) -> SlotReport:
        number = quantity(captured.base.block_number)
        try:
            return replace(await self._build(engine, captured), number=number)
        except (RpcError, UnavailableError) as error:
            return SlotReport(number, error=str(error))

    async def _build(self, engine: EngineClient, captured: CapturedPayload) -> SlotReport:
        await self.builder.websocket.wait_listeners()
        params = [forkchoice_json(captured.base.parent_hash), msgspec.to_builtins(captured.attributes())]
        answer = await engine.call("engine_forkchoiceUpdatedV3", params)
        with trio.move_on_after(len(captured.messages) * self.settings.interval_s + STREAM_GRACE_S):
            await self.builder.wait_streamed(captured.payload_id)
        await trio.sleep(self.settings.settle_s)
        before = trio.current_time()
        envelope = await engine.call(f"engine_getPayloadV{captured.version}", [answer["payloadId"]])
        latency = trio.current_time() - before
        payload = decode_as(ExecutionPayload, envelope["executionPayload"])
        await self._insert(engine, envelope, captured.version)
        return SlotReport(
            number=0,
            block_hash=payload.block_hash,
            source=self.built_by(payload.block_hash) or "unknown",
            transactions=len(payload.transactions),
            gas_used=quantity(payload.gas_used),
            latency_s=latency,
        )

    async def _insert(self, engine: EngineClient, envelope: dict[str, Any], version: int) -> None:
        payload = envelope["executionPayload"]
        params = [payload, [], envelope["parentBeaconBlockRoot"], []]
        await engine.call(f"engine_newPayloadV{version}", params[:version])
        await engine.call("engine_forkchoiceUpdatedV3", [forkchoice_json(payload["blockHash"]), None])

    def built_by(self, block_hash: str) -> str | None:
        """The builder's name for a hash of the capture, else the EL's when it called the block VALID."""
        if self.flashblocks_of(block_hash) is not None:
            return self.builder.name
        return self.el.name if block_hash in self.el.blocks else None

    def flashblocks_of(self, block_hash: str) -> int | None:
        """How many flashblocks of the capture add up to this block; None for a block that is not in it."""
        for payload in self.capture:
            for count, each in enumerate(payload.flashblocks, 1):
                if each.diff is not None and each.diff.block_hash == block_hash:
                    return count
        return None

    def faults(self) -> list[str]:
        """What is switched on now, as the command line names it."""
        found = [f"el-{fault}" for fault in self.el.faults.active]
        return sorted(found + [f"builder-{fault}" for fault in self.builder.faults.active])

    def statistics(self) -> dict[str, object]:
        """Of each simulated program, by name."""
        return {client.name: client.statistics() for client in (self.el, self.builder)}
