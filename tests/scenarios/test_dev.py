"""`appliance dev` as a newcomer starts it, whole and with its faults."""

import fcntl
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CAPTURE = Path(__file__).parents[1] / "data" / "flashblocks" / "unichain-sepolia-35535698.jsonl"


def dev(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", "dev", "--any-port", *arguments]
    if "--replay" not in arguments:
        command += ["--data", str(data), "--block-time", "0.5"]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def sources(done: subprocess.CompletedProcess[str]) -> Counter[str]:
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return Counter(re.findall(r"^block \d+ 0x[0-9a-f]{64} source=(\w+)", done.stdout, re.MULTILINE))


def test_a_devnet_makes_a_block_every_slot_from_builders_with_flashblocks(tmp_path: Path) -> None:
    done = dev(tmp_path, "--slots", "6")
    found = sources(done)
    assert sum(found.values()) == 6
    assert found["alpha"] + found["beta"] >= 5
    assert len(re.findall(r" flashblocks=[2-9]", done.stdout)) >= 5
    for hint in ("appliance tail --url ws://127.0.0.1:", "curl -si http://127.0.0.1:", "kill -9 "):
        assert hint in done.stdout.replace("__main__.py tail", "appliance tail")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("builder-down", {"el": 6}),
        ("builder-invalid", {"el": 6}),
        ("builder-bad-hash", {"el": 6}),
        ("builder-hangs", {"el": 6}),
        ("builder-down:alpha", {"beta": 6}),
    ],
)
def test_whatever_builders_do_there_is_a_block_in_every_slot(
    tmp_path: Path, fault: str, expected: dict[str, int]
) -> None:
    found = sources(dev(tmp_path, "--slots", "6", "--fault", fault))
    assert sum(found.values()) == 6
    # The first slot may begin while connections are still being made.
    assert all(found[name] >= count - 1 for name, count in expected.items()), found


@pytest.mark.parametrize(
    "fault", ["builder-gaps", "builder-equivocates", "builder-garbage", "builder-early", "builder-late", "builder-mute"]
)
def test_whatever_the_stream_does_builders_blocks_go_on(tmp_path: Path, fault: str) -> None:
    found = sources(dev(tmp_path, "--slots", "4", "--fault", fault))
    assert sum(found.values()) == 4
    assert found["alpha"] + found["beta"] >= 3


def test_with_the_el_down_nothing_is_made_up(tmp_path: Path) -> None:
    done = dev(tmp_path, "--slots", "2", "--fault", "el-down")
    assert done.returncode in (0, 1)
    assert "source=" not in done.stdout


def test_a_replay_ends_with_the_real_block(tmp_path: Path) -> None:
    done = dev(tmp_path, "--replay", str(CAPTURE), "--slots", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "block 35535698 0xc463a3120c35268f610d969f5608b479332ef10953af77c7a6be806195831196" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "builder-sleepy"], "appliance: --fault builder-sleepy: no fault is called 'builder-sleepy'"),
        (["--fault", "builder-down:gamma"], "no builder is called 'gamma'; there are alpha, beta"),
        (["--replay", "/nowhere.jsonl"], "appliance: capture /nowhere.jsonl: No such file or directory"),
        (["--replay", str(CAPTURE), "--fault", "el-down"], "appliance: --fault: a replay has no faults"),
        (["--slots", "0"], "appliance: --slots 0: expected a number from 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = dev(tmp_path, *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert message in line


def test_a_folder_that_another_session_has_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "devnet.lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        for hosts in ("1", "3"):
            done = dev(tmp_path, "--slots", "1", "--hosts", hosts)
            assert done.returncode == 2
            assert done.stderr == f"appliance: --data {tmp_path}: another `appliance dev` is at work there\n"
    assert [file.name for file in tmp_path.iterdir()] == ["devnet.lock"]
