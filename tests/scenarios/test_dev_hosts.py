"""`appliance dev --hosts 3` as somebody who has never replicated a stream tries it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from tests.support.eventually import eventually
from tests.support.lines import LineReader
from tests.support.log_order import order_of

pytestmark = pytest.mark.slow

FIRST_COUNT, COUNT = 10, 35
GIVEN_UP_S = 10.0
"""By then the others have ended the connections of a host that says nothing."""


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[trio.Process, LineReader]]:
    """An `appliance` command, its lines. What still runs at the end is told to, so that it takes its hosts with it."""
    command = [sys.executable, "-m", "appliance", *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield process, LineReader(process.stdout)
    finally:
        if process.poll() is None:
            process.terminate()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(20):
                await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()


def keys(lines: list[str]) -> list[tuple[str, int]]:
    messages = [json.loads(line) for line in lines]
    return [(message["payload_id"], message["index"]) for message in messages]


async def test_a_subscriber_of_the_host_that_is_killed_goes_on_at_the_next_and_the_host_comes_back(
    tmp_path: Path,
) -> None:
    arguments = ["dev", "--hosts", "3", "--any-port", "--block-time", "1", "--data", str(tmp_path)]
    with trio.fail_after(200):
        async with started(*arguments) as (dev, lines):
            tail_hint = await lines.wait_for(" tail --url ")
            urls = re.findall(r"ws://\S+", tail_hint)
            assert len(urls) == 3
            kill = re.search(r"kill host-2; .*: kill -9 (\d+)$", await lines.wait_for("kill host-2"))
            assert kill is not None
            await lines.wait_for("block ")
            tailing = [part for url in urls for part in ("--url", url)]
            async with started("tail", "--raw", "--count", str(COUNT), *tailing) as (_, tail):
                await tail.wait_count(FIRST_COUNT)
                os.kill(int(kill[1]), signal.SIGKILL)
                await lines.wait_for("host-2 was ended by SIGKILL")
                seen = keys(await tail.wait_count(COUNT))
            again = await lines.wait_for("host-2 is started again, process ")
            await lines.wait_for("block ")
            await wait_same(tmp_path)
            dev.send_signal(signal.SIGTERM)
            assert await dev.wait() == 0
    assert_whole(seen)
    with pytest.raises(ProcessLookupError):
        os.kill(int(again.rpartition(" ")[2]), 0)


async def test_a_host_that_stood_still_until_the_others_gave_it_up_has_their_order(tmp_path: Path) -> None:
    """What they had sent it meanwhile lay in its sockets, and was taken for new: its subscribers got another stream."""
    arguments = ["dev", "--hosts", "3", "--any-port", "--block-time", "1", "--data", str(tmp_path)]
    with trio.fail_after(200):
        async with started(*arguments) as (dev, lines):
            pid = re.search(r"kill -9 (\d+)$", await lines.wait_for("kill host-2"))
            assert pid is not None
            for _ in range(3):
                await lines.wait_for("block ")
            os.kill(int(pid[1]), signal.SIGSTOP)
            try:
                await trio.sleep(GIVEN_UP_S)
            finally:
                os.kill(int(pid[1]), signal.SIGCONT)
            for _ in range(3):
                await lines.wait_for("block ")
            await wait_same(tmp_path)
            dev.send_signal(signal.SIGTERM)
            assert await dev.wait() == 0
    assert "this host stood still" in (tmp_path / "host-2" / "appliance.log").read_text()
    orders = [order_of(tmp_path / f"host-{number}" / "data") for number in range(3)]
    assert len(orders[0]) > 50
    for order in orders:  # who was ended first may lack the last ones
        assert order == orders[0][: len(order)] or orders[0] == order[: len(orders[0])]


async def test_a_session_that_is_killed_leaves_no_host_behind(tmp_path: Path) -> None:
    arguments = ["dev", "--hosts", "2", "--any-port", "--block-time", "1", "--data", str(tmp_path)]
    logs = [tmp_path / name / "appliance.log" for name in ("host-0", "host-1")]
    with trio.fail_after(200):
        async with started(*arguments) as (dev, lines):
            await lines.wait_for("block ")
            dev.kill()
            assert await dev.wait() == -signal.SIGKILL
            for log in logs:
                await eventually(partial(ended_in_order, log))
    for log in logs:
        assert "stopping" in log.read_text()
        assert "Traceback" not in log.read_text()


def ended_in_order(log: Path) -> bool:
    return "stopped" in log.read_text().splitlines()[-1]


async def wait_same(tmp_path: Path) -> None:
    """Until the host that was away has what the first one has."""
    while True:
        command = [sys.executable, "-m", "appliance", "log", "compare", *folders(tmp_path)]
        if (await trio.run_process(command, check=False, capture_stdout=True)).returncode == 0:
            return
        await trio.sleep(0.2)


def folders(tmp_path: Path) -> list[str]:
    return [str(tmp_path / name / "data") for name in ("host-0", "host-2")]


def assert_whole(seen: list[tuple[str, int]]) -> None:
    """Each payload from index 0 without a gap, but for the last one; nothing twice."""
    assert len(set(seen)) == len(seen)
    for (payload, index), (next_payload, next_index) in pairwise(seen):
        assert next_index == (index + 1 if payload == next_payload else 0)
