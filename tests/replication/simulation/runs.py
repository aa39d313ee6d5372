"""Runs of seeds, and what is told of those that fail."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.replication.simulation.host import SimHost
from tests.replication.simulation.world import Scenario, World


@dataclass(frozen=True)
class Failure:
    """One seed that does not hold, and how to see it again."""

    seed: int
    reason: str
    scenario: Scenario
    events: list[str]

    def __str__(self) -> str:
        again = f"python -m tests.replication.simulation {self.seed}"
        return "\n".join([*self.events, str(self.scenario), f"seed {self.seed}: {self.reason}", f"again: {again}"])


@dataclass
class OneRun:
    """A seed, its last events and why it failed, if it did."""

    scenario: Scenario
    events: list[str]
    failure: Failure | None = None
    left_to_operator: bool = False


@dataclass
class Result:
    """Several seeds."""

    seeds: int = 0
    left_to_operator: int = 0
    failures: list[Failure] = field(default_factory=list)


def run_seed(seed: int, make_host: Callable[..., SimHost] = SimHost) -> OneRun:
    """Any exception is a failure: a core that breaks is no better than one that forgets."""
    world = World(seed, make_host)
    failure = None
    try:
        world.run()
    except Exception as error:
        failure = Failure(seed, f"{type(error).__name__}: {error}", world.scenario, world.clock.last_events())
    return OneRun(world.scenario, world.clock.last_events(), failure, world.left_to_operator)


def run_seeds(seeds: Iterable[int]) -> Result:
    """One after another."""
    result = Result()
    for seed in seeds:
        one = run_seed(seed)
        result.seeds += 1
        result.left_to_operator += one.left_to_operator
        if one.failure is not None:
            result.failures.append(one.failure)
    return result
