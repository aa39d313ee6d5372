from pathlib import Path

import pytest
import trio

from appliance.devnet.capture import read_capture
from appliance.devnet.faults import Fault
from appliance.devnet.node import SlotReport
from appliance.devnet.replay_network import Replay, ReplaySettings
from tests.devnet.setting import DATA, load

UNICHAIN = DATA / "flashblocks/unichain-sepolia-35535698.jsonl"
EXPECTED = load("engine/unichain-sepolia-35535698-newPayloadV4.json")["params"][0]


async def drive(
    replay: Replay, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, *, builder: bool
) -> list[SlotReport]:
    """Drive one side directly; nobody listens to the stream here."""

    async def nobody() -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(replay.builder.websocket, "wait_listeners", nobody)
    await nursery.start(_run, replay)
    endpoint = replay.builder_endpoints[0] if builder else replay.el_endpoint
    return await replay.drive(endpoint.url, endpoint.secret_file)


async def _run(replay: Replay, *, task_status: trio.TaskStatus[Replay]) -> None:
    await replay.run(task_status=task_status)


async def test_recorded_block_is_built_and_becomes_head(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SlotReport] = []
    settings = ReplaySettings(interval_s=0, settle_s=0)
    replay = Replay(read_capture(UNICHAIN), tmp_path, settings, on_slot=seen.append)
    reports = await drive(replay, nursery, monkeypatch, builder=True)
    assert [(report.number, report.block_hash) for report in reports] == [(35535698, EXPECTED["blockHash"])]
    assert (reports[0].source, reports[0].transactions, reports[0].error) == ("replay", 6, None)
    assert reports == seen == replay.reports
    assert replay.builder.head_hash == EXPECTED["blockHash"]
    assert replay.builder_endpoints[0].flashblocks_url == replay.builder.flashblocks_url
    assert set(replay.statistics()) == {"el", "replay"}
    assert replay.flashblocks_of(EXPECTED["blockHash"]) == 5
    assert replay.flashblocks_of(EXPECTED["parentHash"]) is None
    assert replay.faults() == []
    nursery.cancel_scope.cancel()


async def test_without_the_builder_the_els_block_goes_out(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.devnet.replay_network.STREAM_GRACE_S", 0.0)
    replay = Replay(read_capture(UNICHAIN), tmp_path, ReplaySettings(interval_s=0, settle_s=0))
    reports = await drive(replay, nursery, monkeypatch, builder=False)
    assert (reports[0].source, reports[0].transactions) == ("el", 1)
    nursery.cancel_scope.cancel()


async def test_engine_that_is_down_is_a_missed_slot(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Replay(read_capture(UNICHAIN), tmp_path, ReplaySettings(interval_s=0, settle_s=0))
    replay.el.faults.set(Fault.ERRORS)
    reports = await drive(replay, nursery, monkeypatch, builder=False)
    assert reports[0].error == "el was told to answer with errors (-32603)"
    assert reports[0].block_hash is None
    assert replay.faults() == ["el-errors"]
    nursery.cancel_scope.cancel()
