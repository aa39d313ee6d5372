"""`appliance log` of a user who may not: a clear line each time, and never a traceback."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.flashlog.maintenance import backup
from appliance.flashlog.store import Store
from tests.cli.test_log import make
from tests.flashlog.support import flashblock, store_append
from tests.support.unprivileged import run_unprivileged

NAMES_A_LOG = [
    ("verify",),
    ("export", "-"),
    ("export", "out"),
    ("backup", "out"),
    ("evidence",),
    ("import", "in"),
    ("prune", "--keep-hours", "1"),
    ("prune", "--keep-hours", "1", "--dry-run"),
]


def test_a_folder_that_one_may_not_enter_is_a_clear_line(tmp_path: Path) -> None:
    log, other = make(tmp_path / "log", 1, 2), make(tmp_path / "other", 1, 2)
    (tmp_path / "in").write_text("")
    places = [
        ["log", name, "--log", log, *(tmp_path / each if each in ("in", "out") else each for each in rest)]
        for name, *rest in NAMES_A_LOG
    ]
    log.parent.chmod(0o000)
    outcomes = run_unprivileged(*places, ["log", "compare", log, other], ["log", "compare", other, log.parent])
    log.parent.chmod(0o755)
    for outcome in outcomes:
        assert outcome.code == 1
        assert outcome.out == ""
        assert outcome.err.startswith(f"appliance: cannot open {log.parent}")
        assert outcome.err.endswith(": Permission denied\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "log", "other"]


@pytest.mark.parametrize("mode", [0o000, 0o555, 0o444])
def test_a_folder_that_one_may_not_write_into_is_a_clear_line(tmp_path: Path, mode: int) -> None:
    log, there = make(tmp_path / "log", 1, 2), tmp_path / "there"
    there.mkdir()
    there.chmod(mode)
    commands = [["log", name, "--log", log, there / "out"] for name in ("export", "backup")]
    outcomes = run_unprivileged(*commands)
    there.chmod(0o755)
    for outcome in outcomes:
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(f"appliance: cannot write {there}/out")
        assert outcome.err.endswith(": Permission denied\n")
    assert list(there.iterdir()) == []


def test_a_log_that_one_may_not_read_is_a_clear_line(tmp_path: Path) -> None:
    log = make(tmp_path / "log", 1, 2)
    log.chmod(0o000)
    (outcome,) = run_unprivileged(["log", "verify", "--log", log])
    assert (outcome.code, outcome.err) == (1, f"appliance: cannot open {log}: Permission denied\n")


def test_a_medium_that_is_read_only_is_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There even the removal of what is not there fails."""

    def refuse(_path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    log = make(tmp_path / "log", 1, 2)
    monkeypatch.setattr(Path, "unlink", refuse)
    for name in ("export", "backup"):
        assert main(["log", name, "--log", str(log), str(tmp_path / "out")]) == 1
        assert capsys.readouterr().err == f"appliance: cannot write {tmp_path}/out.partial: Read-only file system\n"


def readers(log: Path, other: Path, out: Path) -> list[list[str | Path]]:
    """Each command that changes nothing."""
    return [
        ["log", "verify", "--log", log],
        ["log", "evidence", "--log", log.parent],
        ["log", "export", "--log", log, out / "out.jsonl"],
        ["log", "backup", "--log", log, out / "out.db"],
        ["log", "compare", log, other],
        ["log", "compare", other, log],
        ["log", "prune", "--log", log, "--keep-mib", "0", "--dry-run"],
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_read(log: Path, other: Path, out: Path) -> None:
    """All of them read a log of two payloads, and leave its folder as it is."""
    out.mkdir()
    before = names(log.parent)
    log.parent.chmod(0o555)
    outcomes = run_unprivileged(*readers(log, other, out))
    log.parent.chmod(0o755)
    assert [(outcome.code, outcome.err) for outcome in outcomes] == [(0, "")] * len(outcomes)
    said = [outcome.out for outcome in outcomes]
    assert "whole; 2 entries of 2 payloads" in said[0]
    assert said[1] == ""
    assert "2 entries" in said[2]
    assert said[4] == said[5] == "the same; 2 payloads and 2 entries in both\n"
    assert "1 entries of 1 payloads would go" in said[6]
    assert names(log.parent) == before
    assert names(out) == ["out.db", "out.jsonl"]


def test_a_log_at_rest_in_a_folder_that_one_may_only_read(tmp_path: Path) -> None:
    log, other = make(tmp_path / "log", 1, 2), make(tmp_path / "other", 1, 2)
    assert names(log.parent) == ["flashlog.db"]
    assert_read(log, other, tmp_path / "out")


def test_a_backup_in_a_folder_that_one_may_only_read_and_nothing_is_left_beside_it_in_another(tmp_path: Path) -> None:
    other, archive = make(tmp_path / "other", 1, 2), tmp_path / "archive"
    archive.mkdir()
    backup(other, archive / "flashlog.db")
    assert_read(archive / "flashlog.db", other, tmp_path / "out")
    for command in readers(archive / "flashlog.db", other, tmp_path):
        assert main([str(argument) for argument in command]) == 0
    assert names(archive) == ["flashlog.db"]


def test_a_log_in_use_in_a_folder_that_one_may_only_read(tmp_path: Path) -> None:
    log, other = make(tmp_path / "log", 1), make(tmp_path / "other", 1, 2)
    with closing(Store(log)) as store:
        store_append(store, flashblock(2, 0), now=2.0)
        assert_read(log, other, tmp_path / "out")
        store_append(store, flashblock(2, 1), now=2.0)


def test_what_verify_left_beside_a_log_is_not_in_its_way(tmp_path: Path) -> None:
    log, other = make(tmp_path / "log", 1, 2), make(tmp_path / "other", 1, 2)
    assert main(["log", "verify", "--log", str(log)]) == 0
    assert names(log.parent) == ["flashlog.db", "flashlog.db-shm", "flashlog.db-wal"]
    assert_read(log, other, tmp_path / "out")
    (log.parent / "flashlog.db-shm").unlink()
    shutil.rmtree(tmp_path / "out")
    assert_read(log, other, tmp_path / "out")


def test_a_log_that_was_killed_is_not_read_without_its_last_entries(tmp_path: Path) -> None:
    log, killed = make(tmp_path / "log", 1), tmp_path / "killed"
    killed.mkdir()
    with closing(Store(log)) as store:
        store_append(store, flashblock(2, 0))
        for name in ("flashlog.db", "flashlog.db-wal"):
            shutil.copy(log.parent / name, killed)
    killed.chmod(0o555)
    outcomes = run_unprivileged(*readers(killed / "flashlog.db", log, tmp_path))
    killed.chmod(0o755)
    why = "its newest entries are in flashlog.db-wal, to read which a file must be made beside it"
    for outcome in outcomes:
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == (
            f"appliance: cannot open {killed}/flashlog.db: {why}: copy both into a folder of yours\n"
        )
    assert main(["log", "compare", str(log), str(killed)]) == 0  # who may make it reads them
