"""Each bench once, with tiny numbers: that it runs, counts right and says what it found."""

import io
import json
import pathlib

import msgspec
import pytest
from rich.console import Console

from bench import engine, fanout
from bench.output import write_json

pytestmark = pytest.mark.slow


def quiet() -> Console:
    return Console(file=io.StringIO(), width=140)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_fanout_counts_every_delivery(tmp_path: pathlib.Path) -> None:
    settings = fanout.Settings(subscribers=20, size=4096, rate=50.0, seconds=0.2, rounds=1, receivers=2)
    console = quiet()
    result = fanout.run(settings, console)
    for side in (result.appliance, result.floor):
        assert side.deliveries.count == 20 * 10
        assert side.deliveries.faults == 0
        assert 0 < side.deliveries.delay_ms.p50 <= side.deliveries.delay_ms.max
    fanout.show(result, console)
    assert "CPU per delivery" in written(console)
    write_json(tmp_path / "new" / "fanout.json", result)
    assert json.loads((tmp_path / "new" / "fanout.json").read_text())["settings"]["subscribers"] == 20


def test_engine_measures_every_request_alone_and_loaded() -> None:
    settings = engine.Settings(
        sizes=(10_240, 100_000), samples=4, subscribers=10, message_size=2048, rate=20.0, receivers=1
    )
    console = quiet()
    result = engine.run(settings, console)
    assert len(result.latencies) == 2 * 2 * len(engine.REQUESTS)
    assert {one.through_ms.count for one in result.latencies} == {4, 8}  # a slot has two builds and two heads
    assert result.deliveries is not None
    # On a busy machine a flashblock may come after its getPayload, which is the fence: then nobody gets it.
    assert result.deliveries.count + result.deliveries.lost == 10 * 2 * (4 + engine.WARM_UP)
    assert (result.deliveries.duplicated, result.deliveries.closed) == (0, 0)
    engine.show(result, console)
    assert "getPayload: builder's block" in written(console)
    assert msgspec.json.decode(msgspec.json.encode(result))["latencies"]
