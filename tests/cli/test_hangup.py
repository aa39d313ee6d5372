"""SIGHUP while a real process starts: its file is a pipe, so that the start stands still in the middle."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from appliance.cli.hangup import Hangup
from tests.support.process import killed_at_the_end

CONFIG = '[store]\nfolder = "data"\n[fanout]\nlisten = "127.0.0.1:0"\nmax_per_ip = {limit}\n[log]\nformat = "json"\n'


def test_a_signal_is_acted_on_once() -> None:
    hangup = Hangup()
    assert not hangup.taken()
    hangup.note(signal.SIGHUP, None)
    hangup.note(signal.SIGHUP, None)
    assert hangup.taken()
    assert not hangup.taken()


def has_a_handler(pid: int) -> bool:
    """Whether the process catches SIGHUP (proc(5): SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 another process
        await trio.sleep(0.01)


async def give(pipe: Path, text: str) -> None:
    """Write once somebody reads, and so wait for that."""
    await trio.to_thread.run_sync(pipe.write_text, text, abandon_on_cancel=True)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc")
async def test_a_reload_while_the_process_starts_is_done_when_it_has_started_and_does_not_end_it(
    tmp_path: Path,
) -> None:
    pipe, lines = tmp_path / "appliance.toml", tmp_path / "log"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "appliance", "run", "--config", str(pipe)]
    with trio.fail_after(120), lines.open("wb") as log:
        process = await trio.lowlevel.open_process(command, stderr=log)
        async with killed_at_the_end(process):
            await until(lambda: process.poll() is not None or has_a_handler(process.pid))
            process.send_signal(signal.SIGHUP)  # it has not read its file yet
            await give(pipe, CONFIG.format(limit=5))
            await until(lambda: '"ready"' in lines.read_text())
            await give(pipe, CONFIG.format(limit=7))
            await until(lambda: '"configuration reloaded"' in lines.read_text())
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    assert '"fanout.max_per_ip"' in lines.read_text()


def test_what_notes_the_signal_imports_none_of_the_planes() -> None:
    code = "import sys, appliance.cli.parser, appliance.cli.hangup; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"trio", "appliance.supervisor", "appliance.config.loader"} & set(done.stdout.split())
