"""`appliance run --stop-at-eof`, as a program starts it that must not leave it behind."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from appliance.cli.end_of_input import _read_to_the_end
from tests.support.lines import LineReader
from tests.support.process import killed_at_the_end

CONFIG = '[store]\nfolder = "data"\n[fanout]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n'


def command(folder: Path, *options: str) -> list[str]:
    path = folder / "appliance.toml"
    path.write_text(CONFIG)
    return [sys.executable, "-m", "appliance", "run", "--config", str(path), *options]


def stops(stderr: str) -> list[str]:
    """What the lines about stopping say stopped it."""
    lines = map(json.loads, stderr.splitlines())
    return [line["signal"] for line in lines if line["message"] == "stopping"]


async def test_input_is_read_and_means_nothing_and_its_end_is_an_orderly_stop(tmp_path: Path) -> None:
    with trio.fail_after(120):
        process = await trio.lowlevel.open_process(
            command(tmp_path, "--stop-at-eof"), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stderr is not None
        async with killed_at_the_end(process):
            lines = LineReader(process.stderr)
            await lines.wait_for('"ready"')
            await process.stdin.send_all(b"x" * 100_000)  # more than a pipe holds: it is read
            assert process.poll() is None
            await process.stdin.aclose()
            await lines.wait_for('"stopped"')
            assert await process.wait() == 0
    assert stops("\n".join(lines.lines)) == ["end of input"]


@pytest.mark.parametrize("redirection", ["</dev/null", "<appliance.toml", "<&-"])
def test_an_input_that_has_ended_before_it_started_ends_it_when_it_has_started(
    tmp_path: Path, redirection: str
) -> None:
    shell = ["sh", "-c", f'"$@" {redirection}', "sh", *command(tmp_path, "--stop-at-eof")]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert stops(done.stderr) == ["end of input"]
    assert json.loads(done.stderr.splitlines()[-1])["message"] == "stopped"


def test_an_input_that_gives_nothing_at_once_is_waited_for() -> None:
    """It is so where another process that shares it has made it so."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    thread = threading.Thread(target=_read_to_the_end, args=(reading,))
    thread.start()
    try:
        thread.join(0.05)
        assert thread.is_alive()
    finally:
        os.close(writing)
        thread.join(30)
    assert not thread.is_alive()
    os.close(reading)


def test_an_input_that_cannot_be_read_has_ended() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    _read_to_the_end(writing)


async def test_without_the_option_the_end_of_input_is_nothing(tmp_path: Path) -> None:
    with trio.fail_after(120):
        process = await trio.lowlevel.open_process(command(tmp_path), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        lines = LineReader(process.stderr)
        await lines.wait_for('"ready"')
        process.terminate()
        await lines.wait_for('"stopped"')
        assert await process.wait() == 0
    assert stops("\n".join(lines.lines)) == ["SIGTERM"]
