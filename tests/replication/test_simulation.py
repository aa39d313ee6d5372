"""Thousands of lives of three and five hosts, on the cores of production; and hosts that break a rule, which must show.

A failure prints its seed, the last events and the command that repeats it. More seeds: `make sim SEEDS=100000`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.replication.simulation.host import SimHost
from tests.replication.simulation.mutants import MUTANTS
from tests.replication.simulation.runs import run_seed, run_seeds

PART = 125
PARTS = 16
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_committed_stays_and_is_one(part: int) -> None:
    result = run_seeds(range(part * PART, (part + 1) * PART))
    assert result.seeds == PART
    assert not result.failures, "\n" + "\n\n".join(map(str, result.failures))
    assert result.left_to_operator <= 2  # two voters differ, and the third lost its log: hardly ever


@pytest.mark.parametrize(("mutant", "seeds"), MUTANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_host_that_breaks_a_rule_is_found(mutant: Callable[..., SimHost], seeds: range) -> None:
    assert any(run_seed(seed, mutant).failure for seed in seeds)


def test_a_seed_is_the_same_run_in_every_process() -> None:
    def events(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tests.replication.simulation", "7", "--trace"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first = events("1")
    assert first.endswith("seed 7 holds\n")
    assert len(first.splitlines()) > 20
    assert events("2") == first


def test_a_failure_says_how_to_see_it_again() -> None:
    mutant = MUTANTS[0][0]
    failure = next(run.failure for seed in MUTANTS[0][1] if (run := run_seed(seed, mutant)).failure)
    text = str(failure)
    assert f"seed {failure.seed}: InvariantError: " in text
    assert f"again: python -m tests.replication.simulation {failure.seed}" in text
    assert len(failure.events) > 5
