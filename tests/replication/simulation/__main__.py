"""Many seeds: `make sim SEEDS=100000 FROM=0`. One of them again: `python -m tests.replication.simulation 4711`."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from tests.replication.simulation import clockwork
from tests.replication.simulation.runs import Failure, Result, run_seed, run_seeds

BATCH = 50
SHOWN_FAILURES = 10
ALL_EVENTS = 1_000_000


def main() -> int:
    """0 when all seeds hold, 1 when one does not."""
    arguments = _parse()
    if arguments.seed is not None:
        return _run_one(arguments.seed, everything=arguments.trace)
    return _run_many(arguments.start, arguments.seeds, arguments.jobs)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.replication.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="one seed, with the last events if it fails")
    parser.add_argument("--trace", action="store_true", help="with one seed: all events, also if it holds")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--from", dest="start", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    return parser.parse_args()


def _run_one(seed: int, *, everything: bool) -> int:
    if everything:
        clockwork.TRACE_EVENTS = ALL_EVENTS
    result = run_seed(seed)
    if everything or result.failure:
        print("\n".join(result.events))
    print(result.scenario)
    print(result.failure or f"seed {seed} holds")
    return int(result.failure is not None)


def _run_many(start: int, seeds: int, jobs: int) -> int:
    began = time.monotonic()
    failures: list[Failure] = []
    done = left_to_operator = 0
    for result in _results(start, seeds, jobs):
        done += result.seeds
        left_to_operator += result.left_to_operator
        for failure in result.failures:
            failures.append(failure)
            print(f"\n{failure}", flush=True)
        _progress(done, seeds, len(failures), time.monotonic() - began)
        if len(failures) >= SHOWN_FAILURES:
            print("\nenough failures; the rest is not run")
            break
    print(
        f"\n{done} seeds in {time.monotonic() - began:.0f} s, {len(failures)} failed, {left_to_operator} left to operators"
    )
    return int(bool(failures))


def _results(start: int, seeds: int, jobs: int) -> Iterator[Result]:
    batches = [range(first, min(first + BATCH, start + seeds)) for first in range(start, start + seeds, BATCH)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seeds, batches)


def _progress(done: int, seeds: int, failed: int, seconds: float) -> None:
    rate = done / max(seconds, 1e-9)
    text = f"{done} of {seeds} seeds, {failed} failed, {rate:.0f}/s, {(seeds - done) / max(rate, 1e-9):.0f} s left"
    if sys.stdout.isatty():
        print(f"\r{text}   ", end="", flush=True)
    elif done % (BATCH * 40) == 0 or done == seeds:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
