"""A log as a list, for the rule of `locate`: the fake that passes the same tests as the real one."""

from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId
from appliance.flashlog.locate import Oldest
from appliance.flashlog.spans import PrunedMark, Span


class ListIndex:
    """Entries in log order, those up to ``pruned_through`` removed."""

    def __init__(self, entries: list[Entry], head: int, pruned_through: int = 0) -> None:
        self.head = head
        self._held = [entry for entry in entries if pruned_through < entry.position <= head]
        self._waiting = {entry.payload_id: entry.block_number for entry in entries if entry.position > head}
        self._removed = [entry for entry in entries if entry.position <= pruned_through]

    def pruned(self) -> PrunedMark | None:
        if not self._removed:
            return None
        last = self._removed[-1]
        highest = max(entry.key for entry in self._removed)
        return PrunedMark(last.position, last.payload_id, last.block_number, last.index, highest)

    def oldest(self) -> Oldest | None:
        return Oldest(self._held[0].position, self._held[0].key) if self._held else None

    def newest(self) -> Span | None:
        return self.payload(self._held[-1].payload_id) if self._held else None

    def payload(self, payload_id: PayloadId) -> Span | None:
        of_it = [entry for entry in self._held if entry.payload_id == payload_id]
        if not of_it:
            return None
        return Span(payload_id, of_it[0].block_number, of_it[0].position, of_it[-1].position, 0, 0.0)

    def waiting(self, payload_id: PayloadId) -> int | None:
        return None if self.payload(payload_id) else self._waiting.get(payload_id)

    def position_of(self, payload_id: PayloadId, index: int) -> int | None:
        return next(
            (entry.position for entry in self._held if (entry.payload_id, entry.index) == (payload_id, index)),
            None,
        )

    def first_position_of(self, key: tuple[int, int]) -> int | None:
        return next((entry.position for entry in self._held if entry.key == key), None)

    def first_position_beyond(self, key: tuple[int, int]) -> int | None:
        return next((entry.position for entry in self._held if entry.key > key), None)
