"""Python in a process of its own, with the repository's packages."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_script(script: str, *arguments: str, text: str | None = None, timeout_s: float = 60) -> str:
    """What it prints, given ``text`` on standard input; AssertionError with its traceback where it fails."""
    finished = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        input=text,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
