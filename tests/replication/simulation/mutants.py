"""Hosts that break one rule each: the simulation must see it, or it would not see our own mistakes either."""

import copy
from collections.abc import Callable
from typing import Final

from appliance.domain.replicas import Receipt, Replica, Verdict
from appliance.replication.core import Core
from appliance.replication.membership import Membership, Restored
from appliance.replication.order import CommitOrder, Waiting
from appliance.replication.places import Key, Place
from appliance.replication.votes import Votes
from tests.replication.simulation.disk import DiskLog
from tests.replication.simulation.host import SimHost


class AcknowledgesBeforeTheFsync(SimHost):
    """What was written in the last 50 ms is gone after a crash, though it was acknowledged."""

    _before: tuple[float, DiskLog] | None = None
    _safe: DiskLog | None = None

    def _tick(self) -> None:
        self._safe, self._before = (
            (self._before[1] if self._before else None),
            (self.clock.now, copy.deepcopy(self.disk)),
        )
        super()._tick()

    def crash(self) -> None:
        super().crash()
        if self._safe is not None:
            self.disk = self._safe
        self._before = self._safe = None


class _CarelessDisk(DiskLog):
    def _take(self, entry: Replica, *, is_late: bool) -> Receipt:
        if self.at(entry.payload_id, entry.index) is None and entry.index == self.lengths.get(entry.payload_id, 0):
            return Receipt(Verdict.NEW, self._insert(entry))
        return super()._take(entry, is_late=is_late)


class SkipsThePrefix(SimHost):
    """Takes the next index whatever is before it."""

    def start(self) -> None:
        self.disk.__class__ = _CarelessDisk
        super().start()


class _MutatedCore(SimHost):
    def make_core(self, membership: Membership, restored: Restored) -> Core:
        core = super().make_core(membership, restored)
        self.break_rule(core)
        return core

    def break_rule(self, core: Core) -> None:
        raise NotImplementedError


class CountsOneVoteLess(_MutatedCore):
    """Commits with one vote less than a majority."""

    def break_rule(self, core: Core) -> None:
        core._votes._quorum -= 1


class CountsLearners(SimHost):
    """Takes everybody for a voter."""

    def make_core(self, membership: Membership, restored: Restored) -> Core:
        everybody = membership.voters | {"l0"}
        membership = Membership(
            membership.host_id, membership.log_id, membership.secret, everybody, membership.quorum, False
        )
        self.peers += [peer for peer in self._observer.hosts if peer.name == "l0" and peer not in (self, *self.peers)]
        return super().make_core(membership, restored)


class _FlatteringOrder(CommitOrder):
    def _may_pass(self, first: Waiting) -> bool:
        return super()._may_pass(first) or len(self._decided) > 0


class CommitsAheadOfTheOrder(_MutatedCore):
    """Passes what is undecided as soon as something behind it is decided."""

    def break_rule(self, core: Core) -> None:
        core._order.__class__ = _FlatteringOrder


class ChangesItsMind(_MutatedCore):
    """Gives way to any other body, as only a host without a vote may."""

    def break_rule(self, core: Core) -> None:
        core._votes.yields = True


class ForgetsWhatIsUnsettled(SimHost):
    """Its cursors pass what is refused or undecided."""

    def make_core(self, membership: Membership, restored: Restored) -> Core:
        core = super().make_core(membership, restored)
        core._is_open = lambda key: False  # type: ignore[method-assign]
        return core


class _DeafVotes(Votes):
    def word(self, place: Place) -> None:
        """Nobody's word."""

    def voted(self, host: str, place: Place, *, fixed: bool) -> None:
        if fixed or host < "v2":
            super().voted(host, place, fixed=fixed)


class HearsNoWord(_MutatedCore):
    """Takes nobody's word, and some of the votes for nothing."""

    def break_rule(self, core: Core) -> None:
        core._votes.__class__ = _DeafVotes


class TakesWhatIsOld(_MutatedCore):
    """Takes what came while it stood still for as young as it was when it was sent."""

    def break_rule(self, core: Core) -> None:
        core.alive = lambda now: None  # type: ignore[method-assign]


class _BlindOrder(CommitOrder):
    def is_committed(self, position: int, key: Key) -> bool:
        return position <= self.committed or key in self._decided


class LooksWhereItStood(_MutatedCore):
    """Takes what gave way since it was read for what is committed there now."""

    def break_rule(self, core: Core) -> None:
        core._order.__class__ = _BlindOrder


FEW = range(40)
MUTANTS: Final[tuple[tuple[Callable[..., SimHost], range], ...]] = (
    (AcknowledgesBeforeTheFsync, FEW),
    (LooksWhereItStood, range(3755, 3760)),
    (SkipsThePrefix, FEW),
    (CountsOneVoteLess, FEW),
    (CountsLearners, FEW),
    (CommitsAheadOfTheOrder, FEW),
    (ChangesItsMind, range(400)),
    (ForgetsWhatIsUnsettled, range(400)),
    (HearsNoWord, FEW),
    (TakesWhatIsOld, range(1560, 1580)),
)
"""Each with the seeds of which one at least must show it. Two rules (a lost log has no vote; a vote on a branch that
parted earlier is none) show in a few seeds of ten thousand only: `test_recovery` and `test_votes` hold them.
"""
