"""Each bench once, with tiny numbers: that it runs, counts right and says what it found."""

import io
import json
import pathlib

import msgspec
import pytest
from rich.console import Console

from bench import engine, engine_burst, engine_hanging, fanout, replication, subscribers
from bench.fanout_settings import STEADY, STORM, Settings
from bench.output import write_json

pytestmark = pytest.mark.slow


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way comes, also where other tests run beside."""
    monkeypatch.setattr(subscribers, "ARRIVAL_TIMEOUT_S", 60.0)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=140)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.usefixtures("patient")
def test_fanout_counts_every_delivery(tmp_path: pathlib.Path) -> None:
    settings = Settings(
        parts=(STEADY,), subscribers=21, stuck=1, size=4096, rate=50.0, seconds=0.2, rounds=1, receivers=2
    )
    console = quiet()
    result = fanout.run(settings, console)
    assert result.storm is None
    assert result.steady is not None
    for side in (result.steady.appliance, result.steady.floor):
        assert side.deliveries.count == 20 * 10
        assert side.deliveries.faults == 0
        assert 0 < side.deliveries.delay_ms.p50 <= side.deliveries.delay_ms.max
    fanout.show(result, console)
    assert "CPU per delivery" in written(console)
    write_json(tmp_path / "new" / "fanout.json", result)
    assert json.loads((tmp_path / "new" / "fanout.json").read_text())["settings"]["subscribers"] == 21


@pytest.mark.usefixtures("patient")
def test_storms_bring_everybody_back_without_a_loss() -> None:
    settings = Settings(
        parts=(STORM,), subscribers=20, stuck=0, size=2048, rate=20.0, receivers=2, movers=5, storms=1, quiet_slots=3
    )
    console = quiet()
    result = fanout.run(settings, console)
    storm = result.storm
    assert storm is not None
    assert [one.subscribers for one in (*storm.partial_returned, *storm.whole_returned)] == [5, 20]
    assert storm.quiet_deliveries.faults == 0
    fanout.show(result, console)
    assert "storms of returns" in written(console)


def test_engine_measures_every_request_alone_and_loaded() -> None:
    settings = engine.Settings(
        parts=(engine.LATENCY,),
        sizes=(10_240, 100_000),
        samples=4,
        subscribers=10,
        message_size=2048,
        rate=20.0,
        receivers=1,
    )
    console = quiet()
    result = engine.run(settings, console)
    assert (result.hanging, result.burst) == (None, None)
    assert result.latency is not None
    assert len(result.latency.latencies) == 2 * 2 * len(engine.REQUESTS)
    assert {one.through_ms.count for one in result.latency.latencies} == {4, 8}  # a slot has two builds and two heads
    deliveries = result.latency.deliveries
    assert deliveries is not None
    # On a busy machine a flashblock may come after its getPayload, which is the fence: then nobody gets it.
    assert deliveries.count + deliveries.lost == 10 * 2 * (4 + engine.WARM_UP)
    assert (deliveries.duplicated, deliveries.closed) == (0, 0)
    engine.show(result, console)
    assert "getPayload: builder's block" in written(console)
    assert msgspec.json.decode(msgspec.json.encode(result))["latency"]["latencies"]


def test_engine_measures_a_builder_that_hangs_and_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    # So slow that it does not keep up with requests that come late, where other tests run beside.
    monkeypatch.setattr(engine_burst, "SLOW_S", 0.2)
    monkeypatch.setattr(engine_burst, "SETTLE_TIMEOUT_S", 60.0)
    settings = engine.Settings(
        parts=(engine.HANGING, engine.BURST), builders=(2,), hanging_slots=6, burst_rate=100.0, burst_seconds=0.5
    )
    console = quiet()
    result = engine.run(settings, console)
    assert result.latency is None
    assert result.hanging is not None
    (hanging,) = result.hanging
    assert hanging.builders == 2
    assert hanging.well.get_payload_ms.count == hanging.hanging.get_payload_ms.count == 6
    assert hanging.well.fcu_ms.count == 6 * engine_hanging.FORKCHOICES
    assert 1 <= hanging.waited < 6  # until it is ill
    assert hanging.hanging.get_payload_ms.max > engine_hanging.DEADLINE_MS
    burst = result.burst
    assert burst is not None
    assert burst.sent == burst.el.count == burst.took_ms.count == 50
    assert burst.builders[1].count < 50
    assert [copies.has_last for copies in (burst.el, *burst.builders[:2])] == [True] * 3
    engine.show(result, console)
    assert "one hangs" in written(console)
    assert "came to: execution client 50" in " ".join(written(console).split())


def test_replication_commits_on_a_majority_and_catches_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    settings = replication.Settings(rounds=1, count=5, size=2048, interval_s=0.0, away=100, warm_up=10)
    console = quiet()
    result = replication.run(settings, console)
    for measured in (result.all_up, result.one_down):
        assert measured.committed.count == measured.on_disk.count == measured.bare.count == 5
        assert measured.on_disk.p50 <= measured.committed.p50
    assert result.nobody.count == 5
    assert result.catch_up.entries == 100
    replication.show(result, console)
    assert "committed by 2 of 3" in written(console)
    assert list(tmp_path.iterdir()) == []
