"""What can be made to go wrong in the devnet: one table of named faults, switched on and off at run time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import trio

from appliance.domain.errors import ConfigError


class Role(StrEnum):
    """Which simulated program a fault belongs to."""

    EL = "el"
    BUILDER = "builder"


class Fault(StrEnum):
    """Ways to misbehave."""

    DOWN = "down"
    SLOW = "slow"
    HANGS = "hangs"
    ERRORS = "errors"
    SYNCING = "syncing"
    EMPTY = "empty"
    INVALID = "invalid"
    BAD_HASH = "bad-hash"
    MUTE = "mute"
    GAPS = "gaps"
    EQUIVOCATES = "equivocates"
    GARBAGE = "garbage"
    EARLY = "early"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class FaultInfo:
    """A fault as the command line offers it; `name` is "<role>-<fault>"."""

    role: Role
    fault: Fault
    description: str

    @property
    def name(self) -> str:
        """What is typed after --fault."""
        return f"{self.role}-{self.fault}"


FAULTS: dict[str, FaultInfo] = {
    info.name: info
    for info in (
        FaultInfo(Role.BUILDER, Fault.DOWN, "the builder's ports refuse connections: the EL's blocks go out"),
        FaultInfo(Role.BUILDER, Fault.SLOW, "each answer comes later than the builder deadline"),
        FaultInfo(Role.BUILDER, Fault.HANGS, "calls are taken and never answered"),
        FaultInfo(Role.BUILDER, Fault.ERRORS, "each call is answered with a JSON-RPC error"),
        FaultInfo(Role.BUILDER, Fault.SYNCING, "forkchoiceUpdated and newPayload answer SYNCING: nothing is built"),
        FaultInfo(Role.BUILDER, Fault.EMPTY, "blocks hold the deposit and nothing else"),
        FaultInfo(Role.BUILDER, Fault.INVALID, "blocks carry a wrong state root: the EL calls them INVALID"),
        FaultInfo(Role.BUILDER, Fault.BAD_HASH, "blocks claim a hash that is not their header's"),
        FaultInfo(Role.BUILDER, Fault.MUTE, "no flashblocks are published, getPayload works"),
        FaultInfo(Role.BUILDER, Fault.GAPS, "every third flashblock is not published"),
        FaultInfo(Role.BUILDER, Fault.EQUIVOCATES, "every second flashblock is followed by another of its index"),
        FaultInfo(Role.BUILDER, Fault.GARBAGE, "broken messages stand between the flashblocks"),
        FaultInfo(Role.BUILDER, Fault.EARLY, "flashblock 0 comes 100 ms before forkchoiceUpdated is answered"),
        FaultInfo(Role.BUILDER, Fault.LATE, "flashblocks go on after getPayload was answered"),
        FaultInfo(Role.EL, Fault.DOWN, "the EL's port refuses connections: no blocks, health is 503"),
        FaultInfo(Role.EL, Fault.SLOW, "the EL answers each Engine API call 0.3 s late"),
        FaultInfo(Role.EL, Fault.HANGS, "calls are taken and never answered"),
        FaultInfo(Role.EL, Fault.ERRORS, "each call is answered with a JSON-RPC error"),
        FaultInfo(Role.EL, Fault.SYNCING, "forkchoiceUpdated and newPayload answer SYNCING: no block is VALID"),
        FaultInfo(Role.EL, Fault.EMPTY, "the EL's own blocks hold the deposit and nothing else"),
    )
}


@dataclass(frozen=True, slots=True)
class FaultChoice:
    """A fault and the builder it was asked for; `target` None means every builder, or the EL."""

    info: FaultInfo
    target: str | None = None


def parse_fault(text: str, builders: Sequence[str]) -> FaultChoice:
    """`NAME` or `NAME:builder` as typed after --fault; ConfigError, one line, names what there is."""
    name, _, target = text.partition(":")
    info = FAULTS.get(name)
    if info is None:
        raise ConfigError(f"--fault {text}: no fault is called {name!r}; there are {', '.join(FAULTS)}")
    if not target:
        return FaultChoice(info)
    if info.role is not Role.BUILDER:
        raise ConfigError(f"--fault {text}: {name} takes no builder")
    if target not in builders:
        raise ConfigError(f"--fault {text}: no builder is called {target!r}; there are {', '.join(builders)}")
    return FaultChoice(info, target)


def help_lines() -> list[str]:
    """One line for each fault, for --help."""
    width = max(map(len, FAULTS))
    return [f"{info.name:<{width}}  {info.description}" for info in FAULTS.values()]


class FaultSwitch:
    """The faults that one simulated program has now."""

    def __init__(self, active: Iterable[Fault] = ()) -> None:
        self._active: set[Fault] = set(active)
        self._changed = trio.Event()

    def __contains__(self, fault: Fault) -> bool:
        return fault in self._active

    @property
    def active(self) -> frozenset[Fault]:
        """What is switched on."""
        return frozenset(self._active)

    def set(self, fault: Fault, *, on: bool = True) -> None:
        """Switch one fault; switching to what it is already does nothing."""
        if on == (fault in self._active):
            return
        self._active ^= {fault}
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self, fault: Fault, *, on: bool) -> None:
        """Return when `fault` is on, or off."""
        while (fault in self._active) != on:
            await self._changed.wait()
