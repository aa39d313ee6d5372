"""Stand-ins for what surrounds the flashblock plane: builders' websockets, the log and the EL."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError, UnavailableError
from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.payloads import PayloadId, PayloadState, PayloadStatus
from appliance.flashblocks.metrics import FlashblockMetrics
from appliance.flashblocks.ports import Messages

HangUp = UnavailableError("the builder hung up")


class FakeBuilders:
    """Websocket endpoints by URL. What is sent to one that nobody reads is lost, as on a real one."""

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self.refuse: set[str] = set()
        self._connections: dict[str, trio.MemorySendChannel[tuple[bytes, bool] | None]] = {}
        self._changed = trio.Event()

    def connect(self, url: str) -> AbstractAsyncContextManager[Messages]:
        """The port `Connect`."""
        return self._connected(url)

    @asynccontextmanager
    async def _connected(self, url: str) -> AsyncIterator[Messages]:
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if url in self.refuse:
            raise UnavailableError(f"{url} refused the connection")
        send, receive = trio.open_memory_channel[tuple[bytes, bool] | None](10_000)
        self._connections[url] = send
        self._notify()
        try:
            async with aclosing(self._read(receive)) as arriving:
                yield arriving
        finally:
            if self._connections.get(url) is send:
                del self._connections[url]
                self._notify()

    async def _read(
        self, receive: trio.MemoryReceiveChannel[tuple[bytes, bool] | None]
    ) -> AsyncGenerator[tuple[bytes, bool], None]:
        async for message in receive:
            if message is None:
                raise HangUp
            yield message

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds after a connection came or went."""
        while not condition():
            await self._changed.wait()

    async def wait_connected(self, url: str) -> None:
        """Return when somebody reads from ``url``."""
        await self.wait_for(lambda: url in self._connections)

    def send(self, url: str, message: bytes, *, is_binary: bool = False) -> None:
        """A message to whoever reads."""
        if url in self._connections:
            self._connections[url].send_nowait((message, is_binary))

    def hang_up(self, url: str, *, politely: bool = False) -> None:
        """End the connection."""
        if politely:
            self._connections[url].close()
        else:
            self._connections[url].send_nowait(None)


class FakeLog:
    """The log's rules in memory. ``disk`` may be a gate that appends wait for, and ``failures`` come first."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.builders: list[str] = []
        self.states: list[tuple[PayloadId, PayloadState, str | None]] = []
        self.failures: list[LogError] = []
        self.earlier: list[Entry] = []
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.committed: int | None = None  # as many entries are shown; None for all
        self.disk = trio.Event()
        self.disk.set()
        self.waiting = 0
        self._changed = trio.Event()

    async def append(self, flashblock: Flashblock, builder: str) -> Entry:
        """As the real one."""
        self.waiting += 1
        self._notify()
        try:
            await self.disk.wait()
            await trio.sleep(self.delay_s())
        finally:
            self.waiting -= 1
        if self.failures:
            raise self.failures.pop(0)
        return self._insert(flashblock, builder)

    def _insert(self, flashblock: Flashblock, builder: str) -> Entry:
        held = [entry for entry in self.entries if entry.payload_id == flashblock.payload_id]
        if flashblock.index < len(held):
            if held[flashblock.index].body != flashblock.body:
                raise EquivocationError(f"{flashblock.payload_id}/{flashblock.index}")
            return held[flashblock.index]
        if flashblock.index > len(held):
            raise OutOfOrderError(f"{flashblock.payload_id}/{flashblock.index}")
        assert flashblock.block_number is not None
        entry = Entry(
            position=len(self.entries) + 1,
            payload_id=flashblock.payload_id,
            index=flashblock.index,
            block_number=flashblock.block_number,
            body=flashblock.body,
            encoding=flashblock.encoding,
        )
        self.entries.append(entry)
        self.builders.append(builder)
        self._notify()
        return entry

    async def set_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None = None) -> None:
        """As the real one."""
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        self.states.append((payload_id, state, block_hash))
        self._notify()

    def unseen(self, payload_id: PayloadId) -> int:
        """As the real one."""
        held = self.entries[self.committed :] if self.committed is not None else []
        return sum(entry.payload_id == payload_id for entry in held)

    async def unfinished(self, limit: int) -> list[Entry]:
        """What a test says that an earlier process has left."""
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        return self.earlier[-limit:]

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_for(self, condition: Callable[["FakeLog"], bool]) -> None:
        """Return when ``condition`` holds."""
        while not condition(self):
            await self._changed.wait()

    async def wait_entries(self, count: int) -> None:
        """Return when there are so many entries."""
        await self.wait_for(lambda log: len(log.entries) >= count)

    @property
    def bodies(self) -> list[bytes]:
        """What subscribers would see."""
        return [entry.body for entry in self.entries]


class FakeValidator:
    """An EL. It says VALID unless ``verdicts`` or ``judge`` say otherwise; ``gate`` holds the answers back."""

    def __init__(self) -> None:
        self.asked: list[AssembledPayload] = []
        self.answered: list[AssembledPayload] = []
        self.verdicts: list[PayloadStatus | UnavailableError] = []
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.gate = trio.Event()
        self.gate.set()
        self._changed = trio.Event()

    async def validate(self, payload: AssembledPayload) -> PayloadStatus:
        """The port `BlockValidator`."""
        self.asked.append(payload)
        self._notify()
        await self.gate.wait()
        await trio.sleep(self.delay_s())
        verdict = self.verdicts.pop(0) if self.verdicts else PayloadStatus.VALID
        self.answered.append(payload)
        if isinstance(verdict, UnavailableError):
            raise verdict
        return verdict

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_asked(self, count: int) -> None:
        """Return when so many questions came."""
        while len(self.asked) < count:
            await self._changed.wait()


def new_metrics() -> tuple[CollectorRegistry, FlashblockMetrics]:
    """Metrics on a registry of their own."""
    registry = CollectorRegistry()
    return registry, FlashblockMetrics.create(registry)
