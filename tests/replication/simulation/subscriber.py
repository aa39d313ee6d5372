"""A subscriber that goes from host to host and resumes by the rule of the log (flashlog.locate)."""

from typing import TYPE_CHECKING

from appliance.domain.errors import PrunedError
from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterPayload, CurrentPayload, Located, Resume
from appliance.domain.replicas import Record
from appliance.flashlog.locate import locate
from tests.flashlog.list_index import ListIndex
from tests.replication.simulation.clockwork import Clockwork

if TYPE_CHECKING:
    from tests.replication.simulation.host import SimHost

Seen = tuple[PayloadId, int, bytes]


class Subscriber:
    """``view`` is what it got, over all its hosts."""

    def __init__(self, name: int, clock: Clockwork) -> None:
        self.name = name
        self.view: list[Seen] = []
        self.host: SimHost | None = None
        self._clock = clock
        self._incarnation = 0
        self._position = 0
        self._skip: tuple[int, int] | None = None
        self._number = 0

    def connect(self, host: "SimHost") -> None:
        """Resume there, if that host has the place."""
        located = self._locate(host)
        if located is None:
            return
        self.host, self._incarnation = host, host.incarnation
        self._position, self._skip = located.position, located.skip_through
        self._clock.note("subscriber %s goes to %s after position %s", self.name, host.name, self._position)
        self.poll()

    def _locate(self, host: "SimHost") -> Located | None:
        entries = [record.entry for record in (*host.disk.removed, *host.disk.after(0, 2**60))]
        resume: Resume = CurrentPayload()
        if self.view:
            payload_id, index, _ = self.view[-1]
            resume = AfterPayload(payload_id, index, self._number)
        try:
            return locate(ListIndex(entries, host.visible, host.disk.pruned), resume)
        except PrunedError:
            return None

    @property
    def is_connected(self) -> bool:
        return self.host is not None and self.host.is_up and self.host.incarnation == self._incarnation

    def leave(self) -> None:
        self.host = None

    def poll(self) -> None:
        """Take what the host shows by now."""
        if self.host is None or not self.is_connected:
            return
        for record in self.host.disk.after(self._position, 2**60, self.host.visible):
            self._position = record.position
            if not self._skips(record):
                self._number = record.block_number
                self.view.append((record.payload_id, record.index, record.prefix))

    def _skips(self, record: Record) -> bool:
        if self._skip is not None and record.entry.key <= self._skip:
            return True
        self._skip = None
        return False
