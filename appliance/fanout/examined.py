"""One log entry as filters see it: its contents, made once, and what they said of it."""

from typing import Final
from weakref import WeakKeyDictionary

import trio

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout.contents import NOTHING, Contents, Scan, extract, scan_seconds
from appliance.fanout.filters import Filter
from appliance.fanout.frames import LOGGED_BYTES, RunSync
from appliance.fanout.pacing import Clock
from appliance.wire.flashblock import plain_text

SMALL_BYTES: Final = 64 * 1024  # a text up to here is looked through at once, in 0.1 ms; larger ones in a thread
QUICK_S: Final = 0.000_1  # a scan that takes no longer is made at once
REMEMBERED: Final = 1024  # verdicts that took a scan; when full the oldest is forgotten, and found again if needed


class Examined:
    """What is known of one entry. Immutable but for what has been worked out."""

    __slots__ = ("_contents", "_entry", "_making", "_verdicts")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._contents: Contents | None = None
        self._making: trio.Lock | None = None
        # A verdict goes with its filter: 30 KB each would stay here of those who come with another one every time.
        self._verdicts: WeakKeyDictionary[Filter, bool] = WeakKeyDictionary()

    @property
    def ready(self) -> Contents | None:
        """The contents when they are there or quickly made, else None: then `prepare` them."""
        if self._contents is None and self._entry.encoding is Encoding.TEXT and len(self._entry.body) <= SMALL_BYTES:
            self.make()
        return self._contents

    def make(self) -> Contents:
        """Look the entry through now."""
        try:
            text = plain_text(self._entry.body, self._entry.encoding, max_bytes=LOGGED_BYTES)
        except DecodeError:  # it was well when it was logged, perhaps by another version
            self._contents = NOTHING
        else:
            self._contents = extract(text)
        return self._contents

    async def prepare(self, run_sync: RunSync) -> Contents:
        """The contents; a large or compressed entry is looked through in a thread, once for all who ask together."""
        if self.ready is None:
            if self._making is None:
                self._making = trio.Lock()
            async with self._making:
                if self._contents is None:
                    await run_sync(self._make_in_thread)
        return self._contents or NOTHING

    def _make_in_thread(self) -> bytes:
        self.make()
        return b""

    def verdict(self, wanted: Filter) -> bool | None:
        """Whether the entry passes, when that is known or quickly found; else None: then `prepare` and a `Decision`."""
        contents = self.ready
        if contents is None:
            return None
        decided = wanted.without_scan(contents)
        if decided is not None:
            return decided
        if wanted not in self._verdicts and scan_seconds(len(wanted.addresses), contents) <= QUICK_S:
            self.decide(wanted).run(lambda: 0.0, 1.0)
        return self._verdicts.get(wanted)

    def decide(self, wanted: Filter) -> "Decision":
        """Find it out, in steps. Only with contents that are there."""
        return Decision(self, wanted, self._contents or NOTHING)

    def remember(self, wanted: Filter, *, passes: bool) -> None:
        """Keep what a decision came to."""
        while len(self._verdicts) >= REMEMBERED:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[wanted] = passes


class Decision:
    """Whether an entry passes a filter, where its transactions have to be searched."""

    __slots__ = ("_contents", "_examined", "_scan", "_wanted")

    def __init__(self, examined: Examined, wanted: Filter, contents: Contents) -> None:
        self._examined = examined
        self._wanted = wanted
        self._contents = contents
        self._scan = Scan(wanted.addresses, contents)

    def run(self, clock: Clock, until: float) -> bool:
        """Search until ``clock`` reaches ``until``, at least a step; True when the verdict is there."""
        done = self._scan.run(clock, until)
        if done or self._scan.hits:
            passes = self._wanted.after_scan(self._contents, self._scan.hits)
            self._examined.remember(self._wanted, passes=passes)
        return done or bool(self._scan.hits)
