"""A host's flashblock log as the simulation has it: what is in here survives a crash.

The same verdicts as `flashlog.replica_jobs`; one test suite holds both to them (test_disk_like_log).
"""

from collections.abc import Iterable

from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Record, Replica, Verdict, extend_prefix
from appliance.replication.places import Key


class DiskLog:
    """Entries by position, tombstones, cursors, commit point. Each method is one transaction."""

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id
        self.last = 0
        self.committed = 0
        self.pruned = 0
        self.recovering = True
        self.entries: dict[int, Record] = {}
        self.position_of: dict[Key, int] = {}
        self.lengths: dict[PayloadId, int] = {}
        self.ends: dict[PayloadId, int] = {}
        self.cursors: dict[str, Cursor] = {}
        self.gone: set[PayloadId] = set()
        self.removed: list[Record] = []
        self.evidence: list[tuple[Key, bytes]] = []

    def at(self, payload_id: PayloadId, index: int) -> Record | None:
        position = self.position_of.get((payload_id, index))
        return None if position is None else self.entries[position]

    def prefix(self, payload_id: PayloadId, index: int) -> bytes | None:
        if index < 0:
            return b""
        held = self.at(payload_id, index)
        return held.prefix if held else None

    def after(self, position: int, limit: int, through: int | None = None) -> list[Record]:
        # Positions ascend in the dict: entries are only ever put in at the end.
        through = self.last if through is None else through
        if through - position <= limit:  # the usual case: near the end
            return [self.entries[at] for at in range(position + 1, through + 1) if at in self.entries]
        return [self.entries[at] for at in self.entries if position < at <= through][:limit]

    # --- transactions ---

    def append(
        self, payload_id: PayloadId, index: int, number: int, builder: str, body: bytes, now: float, after: bytes | None
    ) -> bool:
        """A local flashblock; ``after`` is the prefix that its sequencer put before it, where it did."""
        if index >= self.ends.get(payload_id, index + 1) or index > self.lengths.get(payload_id, 0):
            return False
        before = None if payload_id in self.gone else self.prefix(payload_id, index - 1)
        if before is None or (after is not None and after != before):
            return False
        prefix = extend_prefix(before, body, Encoding.TEXT)
        held = self.at(payload_id, index)
        if held is not None:
            return held.prefix == prefix
        self._insert(Record(0, payload_id, index, number, Encoding.TEXT, builder, now, body, prefix))
        return True

    def append_from(self, entries: Iterable[Replica], late: frozenset[int]) -> list[Receipt]:
        return [self._take(entry, is_late=entry.position in late) for entry in entries]

    def _take(self, entry: Replica, *, is_late: bool) -> Receipt:
        payload_id, index = entry.payload_id, entry.index
        before = self.prefix(payload_id, index - 1)
        held = self.at(payload_id, index)
        if held is not None and held.prefix == entry.prefix:
            return Receipt(Verdict.HELD, held.position)
        if held is not None:
            return self._refuse(entry, before)
        if index >= self.ends.get(payload_id, index + 1):
            return Receipt(Verdict.CLOSED, is_sibling=self._is_sibling(entry, before))
        if payload_id in self.gone:
            return Receipt(Verdict.PASSED)
        if entry.body is None:
            return Receipt(Verdict.NEED_BODY)
        if index > self.lengths.get(payload_id, 0) or before is None:
            return Receipt(Verdict.OUT_OF_ORDER)
        if extend_prefix(before, entry.body, entry.encoding) != entry.prefix:
            return self._refuse(entry, before)
        if is_late:
            self.ends[payload_id] = index
            return Receipt(Verdict.CLOSED, is_sibling=True)
        return Receipt(Verdict.NEW, self._insert(entry))

    def _refuse(self, entry: Replica, before: bytes | None) -> Receipt:
        if entry.body is not None:
            self.evidence.append(((entry.payload_id, entry.index), entry.body))
        return Receipt(Verdict.REFUSED, is_sibling=self._is_sibling(entry, before))

    def _is_sibling(self, entry: Replica, before: bytes | None) -> bool:
        if before is None or entry.body is None:
            return False
        return extend_prefix(before, entry.body, entry.encoding) == entry.prefix

    def _insert(self, entry: Replica) -> int:
        self.last += 1
        payload_id, index = entry.payload_id, entry.index
        self.entries[self.last] = Record(
            self.last,
            payload_id,
            index,
            entry.block_number,
            entry.encoding,
            entry.builder,
            entry.received_at,
            entry.body or b"",
            entry.prefix,
        )
        self.position_of[payload_id, index] = self.last
        self.lengths[payload_id] = index + 1
        return self.last

    def replace(self, payload_id: PayloadId, from_index: int) -> list[Record]:
        if self.ends.get(payload_id, -1) >= from_index:
            del self.ends[payload_id]
        return self._remove(payload_id, from_index)

    def close(self, payload_id: PayloadId, at: int) -> list[Record]:
        self.ends[payload_id] = min(at, self.ends.get(payload_id, at))
        return self._remove(payload_id, at)

    def requeue(self, payload_id: PayloadId, from_index: int) -> None:
        for record in self._take_out(payload_id, from_index):
            self._insert(record)

    def _remove(self, payload_id: PayloadId, from_index: int) -> list[Record]:
        removed = self._take_out(payload_id, from_index)
        self.evidence.extend(((payload_id, record.index), record.body) for record in removed)
        return removed

    def _take_out(self, payload_id: PayloadId, from_index: int) -> list[Record]:
        length = self.lengths.get(payload_id, 0)
        taken = [self.entries.pop(self.position_of.pop((payload_id, index))) for index in range(from_index, length)]
        if from_index == 0:
            self.lengths.pop(payload_id, None)
        elif taken:
            self.lengths[payload_id] = from_index
        return taken

    def set_recovered(self) -> None:
        self.recovering = False

    def prune(self, through: int) -> None:
        """Retention: whole payloads, of what is committed."""
        for position in [at for at in self.entries if at <= through]:
            record = self.entries.pop(position)
            del self.position_of[record.payload_id, record.index]
            self.lengths.pop(record.payload_id, None)
            self.gone.add(record.payload_id)
            self.removed.append(record)
        self.pruned = through

    # --- what must hold ---

    def check(self) -> None:
        """Contiguous and in index order per payload; every prefix what the bodies make."""
        lengths: dict[PayloadId, int] = {}
        prefixes: dict[PayloadId, bytes] = {}
        for position in sorted(self.entries):
            record = self.entries[position]
            assert record.index == lengths.get(record.payload_id, 0), f"gap before {record.payload_id}/{record.index}"
            prefix = extend_prefix(prefixes.get(record.payload_id, b""), record.body, record.encoding)
            assert record.prefix == prefix, f"prefix of {record.payload_id}/{record.index}"
            lengths[record.payload_id] = record.index + 1
            prefixes[record.payload_id] = prefix
        assert lengths == self.lengths
