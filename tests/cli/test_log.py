"""`appliance log` as operators call it."""

from contextlib import closing
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.flashlog.store import Store
from tests.flashlog.support import flashblock, store_append


def make(folder: Path, *payloads: int) -> Path:
    folder.mkdir()
    with closing(Store(folder / "flashlog.db")) as store:
        for payload in payloads:
            store_append(store, flashblock(payload, 0), now=float(payload))
    return folder / "flashlog.db"


def test_comparing_the_logs_of_two_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make(tmp_path / "one", 1, 2), make(tmp_path / "other", 2, 1)
    assert main(["log", "compare", str(one), str(other.parent)]) == 0
    assert capsys.readouterr().out == "the same; 2 payloads and 2 entries in both\n"
    more = make(tmp_path / "more", 1, 2, 3)
    assert main(["log", "compare", str(one), str(more)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"payload 0x0000000000000003 of block 1003: only in {more}, 1 entries",
        "1 differences; 2 payloads and 2 entries in both",
    ]


def test_pruning_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "log", *range(10))
    assert main(["log", "prune", "--log", str(path), "--keep-hours", "1", "--dry-run"]) == 0
    assert "9 entries of 9 payloads would go" in capsys.readouterr().out
    assert main(["log", "prune", "--log", str(path), "--keep-mib", "0"]) == 0
    assert "9 entries of 9 payloads removed" in capsys.readouterr().out
    assert main(["log", "verify", "--log", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "say how much to keep: --keep-hours, --keep-mib or both"),
        (["--keep-hours", "-1"], "expected a number from 0"),
        (["--keep-mib", "nan"], "expected a number from 0"),
    ],
)
def test_pruning_wants_to_know_what_to_keep(
    tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "log", 1)
    assert main(["log", "prune", "--log", str(path), *arguments]) == 2
    assert error in capsys.readouterr().err
