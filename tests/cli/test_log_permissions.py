"""`appliance log` of a user who may not: a clear line each time, and never a traceback."""

from pathlib import Path

import pytest

from appliance.cli import main
from tests.cli.test_log import make
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
