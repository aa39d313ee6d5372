"""New heads for the subscribers of a group, whatever endpoint they come from: the shell around `HeadChain`."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.providers.heads import Extended, Fetch, HeadChain, Header, TooFar
from appliance.telemetry.logging import get_logger

log = get_logger("providers")

Ask = Callable[[str, bytes], Awaitable[msgspec.Raw]]
"""(method, params) -> the result; raises UnavailableError."""

# Heads that wait while blocks are being filled in. Dropping the oldest loses nothing: the newest leads to it.
_MOST_OFFERS: Final = 32
_RETRY_S: Final = 0.5
# A head whose ancestors nobody has was of a branch that is gone; the next head goes on without it.
_MOST_RETRIES: Final = 10


class HeadListener(Protocol):
    """Who follows the heads. Neither method may wait."""

    def extended(self, step: Extended) -> None:
        """Further blocks, in order."""

    def lost(self, missed: int) -> None:
        """More was missed than can be filled in: what follows does not join on."""


class HeadFeed:
    """Takes the heads that the active endpoint shows, and gives each canonical block once, in order."""

    def __init__(self, ask: Ask, bound: int, count_filled_in: Callable[[int], None] = lambda _count: None) -> None:
        self._ask = ask
        self._chain = HeadChain(bound)
        self._count_filled_in = count_filled_in
        self._listeners: dict[HeadListener, None] = {}
        self._offers: deque[Header] = deque(maxlen=_MOST_OFFERS)
        self._offered = trio.Event()
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        return f"<HeadFeed {self._chain!r}, {len(self._listeners)} listeners>"

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def offer(self, header: Header) -> None:
        """The active endpoint has this head."""
        if self._listeners:
            self._offers.append(header)
            self._offered.set()

    async def join(self, listener: HeadListener) -> None:
        """From the newest block of now on ``listener`` gets what follows. Raises UnavailableError."""
        async with self._lock:
            if not self._listeners:
                raw = await self._ask("eth_getBlockByNumber", b'["latest",false]')
                self._chain.restart(_decode(raw))
            self._listeners[listener] = None

    def leave(self, listener: HeadListener) -> None:
        """No more. Who never joined may leave too."""
        self._listeners.pop(listener, None)

    async def run(self) -> None:
        """Work off what is offered, until cancelled."""
        while True:
            await self._offered.wait()
            self._offered = trio.Event()
            while self._offers:
                await self._attach(self._offers.popleft())

    async def _attach(self, head: Header) -> None:
        for _ in range(_MOST_RETRIES):
            try:
                async with self._lock:
                    await self._walk([head])
            except UnavailableError as error:
                log.debug("a block cannot be filled in yet", error=str(error))
            else:
                return
            await trio.sleep(_RETRY_S)
            if self._offers:
                return  # a newer head leads to this one

    async def _walk(self, branch: list[Header]) -> None:
        while isinstance(step := self._chain.attach(branch), Fetch):
            raw = await self._ask("eth_getBlockByHash", msgspec.json.encode([step.hash, False]))
            branch.insert(0, _decode(raw))
        if isinstance(step, Extended):
            self._count_filled_in(len(branch) - 1)
            for listener in list(self._listeners):
                listener.extended(step)
        elif isinstance(step, TooFar):
            self._restart(branch[-1], step.missed)

    def _restart(self, head: Header, missed: int) -> None:
        log.warning("too many heads missed", missed=missed, head=head.number)
        self._chain.restart(head)
        for listener in list(self._listeners):
            listener.lost(missed)


def _decode(raw: msgspec.Raw) -> Header:
    try:
        return Header.decode(raw, of_block=True)
    except DecodeError as error:
        raise UnavailableError(str(error)) from None
