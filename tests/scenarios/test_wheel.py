"""The built wheel, installed elsewhere, runs: nothing that it needs is only in the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a folder of its own, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder


def python(installed: Path, *arguments: str) -> str:
    """Run Python with the installed wheel before everything else, from a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return done.stdout


def test_the_wheel_holds_migrations_and_the_sample_and_no_tests(installed: Path) -> None:
    [wheel] = (installed / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("appliance/flashlog/migrations/") and name.endswith(".sql") for name in names)
    assert "appliance/config/sample.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_it_is_the_wheel_that_runs(installed: Path) -> None:
    where = python(installed, "-c", "import appliance; print(appliance.__file__)").strip()
    assert Path(where).is_relative_to(installed / "site")


def test_the_installed_wheel_runs_a_devnet_and_keeps_a_whole_log(installed: Path) -> None:
    arguments = ["-m", "appliance", "dev", "--any-port", "--data", "data", "--block-time", "0.5", "--slots", "3"]
    assert python(installed, *arguments).count("\nblock ") == 3
    verdict = python(installed, "-m", "appliance", "log", "verify", "--log", "data/flashlog.db")
    assert "data/flashlog.db: whole;" in verdict
    (installed / "a.toml").write_text('[fanout]\nlisten = "127.0.0.1:0"\n')
    assert "well; it runs fanout" in python(installed, "-m", "appliance", "check-config", "a.toml")
