from pathlib import Path

from tests.support.scripts import run_script
from tests.support.unprivileged import run_unprivileged

SCRIPT = """
import os, sys
from pathlib import Path
from tests.support.unprivileged import give_up_roots_rights

give_up_roots_rights()
folder = Path(sys.argv[1])
for name in ("closed", "still"):
    try:
        (folder / name / "file").write_text("x")
    except PermissionError:
        print(name, os.access(folder / name, os.W_OK))
(folder / "open").write_text("x")
"""


def test_modes_bind_whoever_runs_the_tests(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "still").mkdir(mode=0o555)
    assert run_script(SCRIPT, str(tmp_path)).splitlines() == ["closed False", "still False"]
    assert list((tmp_path / "still").iterdir()) == []


def test_each_command_has_its_outcome(tmp_path: Path) -> None:
    verified, pruned = run_unprivileged(["log", "verify", "--log", tmp_path], ["log", "prune", "--log", tmp_path])
    assert (verified.code, pruned.code) == (1, 2)
    assert verified.err == f"appliance: there is no flashblock log at {tmp_path}/flashlog.db\n"
    assert "say how much to keep" in pruned.err
