"""Log entries with their frames and what filters say of them, shared by all subscribers near them."""

from collections import OrderedDict
from collections.abc import Iterable

import trio

from appliance.domain.flashblocks import Entry
from appliance.fanout.examined import Examined
from appliance.fanout.frames import ENCODERS, NATIVE, RunSync, Variant
from appliance.fanout.marks import Mark


class FrameSet:
    """One log entry, its frames and its contents, made when first asked for."""

    __slots__ = ("_examined", "_frames", "_making", "entry", "mark")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.mark = Mark.of(entry)
        self._frames: dict[Variant, bytes] = {}
        self._making: trio.Lock | None = None
        self._examined: Examined | None = None

    @property
    def examined(self) -> Examined:
        """The entry as filters see it; where there are none it costs nothing."""
        if self._examined is None:
            self._examined = Examined(self.entry)
        return self._examined

    def ready(self, variant: Variant) -> bytes | None:
        """The frame when it is there or costs no more than a copy, else None: then `prepare` it."""
        ready = self._frames.get(variant)
        if ready is None and NATIVE[self.entry.encoding] is variant:
            return self.make(variant)
        return ready

    def make(self, variant: Variant) -> bytes:
        """Encode now: compression and decompression of 20 KB take up to a millisecond."""
        made = self._frames[variant] = ENCODERS[variant](self.entry)
        return made

    async def prepare(self, variant: Variant, run_sync: RunSync) -> bytes:
        """The frame; compression and decompression happen in a thread, once for all who ask together."""
        ready = self.ready(variant)
        if ready is not None:
            return ready
        if self._making is None:
            self._making = trio.Lock()
        async with self._making:
            ready = self._frames.get(variant)
            return ready if ready is not None else await run_sync(lambda: self.make(variant))

    @property
    def cost(self) -> int:
        """Bytes that it may keep: the body, a frame of each variant and the contents, each of about that size."""
        return len(self.entry.body) * (2 + len(Variant))


class FrameCache:
    """The frame sets in use lately, so that subscribers near each other in the log share theirs.

    Bounded by count and by bytes; when full the least recently used set goes, and is made again from the
    log if someone still needs it.
    """

    def __init__(self, max_entries: int = 256, max_bytes: int = 16 * 2**20) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._sets: OrderedDict[int, FrameSet] = OrderedDict()
        self._cost = 0

    def get(self, entry: Entry) -> FrameSet:
        """The set for an entry. Bodies are immutable, so the position identifies it."""
        found = self._sets.get(entry.position)
        if found is None:
            return self._add(FrameSet(entry))
        self._sets.move_to_end(entry.position)
        return found

    def get_all(self, entries: Iterable[Entry]) -> list[FrameSet]:
        """The sets for several entries, in their order."""
        return [self.get(entry) for entry in entries]

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def cost(self) -> int:
        """Bytes that all sets may keep."""
        return self._cost

    def _add(self, added: FrameSet) -> FrameSet:
        self._sets[added.mark.position] = added
        self._cost += added.cost
        while len(self._sets) > 1 and (len(self._sets) > self._max_entries or self._cost > self._max_bytes):
            _, oldest = self._sets.popitem(last=False)
            self._cost -= oldest.cost
        return added
