"""What the flashblock plane needs of its neighbours, in its own terms; the supervisor passes the objects."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Entry, Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus


class Build(Protocol):
    """One block being built, as the engine announces it: one forkchoice_updated with attributes."""

    @property
    def build_id(self) -> BuildId:
        """Our own number for it."""

    @property
    def parent_hash(self) -> str:
        """Hash of the block that it is built on."""

    @property
    def timestamp(self) -> int:
        """Timestamp of the block, in seconds."""

    @property
    def builders(self) -> tuple[str, ...]:
        """Names of the builders that were asked, in configured order."""


class BlockValidator(Protocol):
    """The local EL's judgement."""

    async def validate(self, payload: AssembledPayload) -> PayloadStatus:
        """newPayload on the local EL; UnavailableError when it gave no answer."""


class FlashblockSink(Protocol):
    """The log: the only way to subscribers."""

    async def append(self, flashblock: Flashblock, builder: str) -> Entry:
        """Put it on disk. EquivocationError, OutOfOrderError or LogError when that was not done."""

    async def set_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None = None) -> None:
        """Record how a payload fared; LogError when that was not done."""

    def unseen(self, payload_id: PayloadId) -> int:
        """How many flashblocks of a payload are on disk and not shown yet, because other hosts are to have them."""

    async def unfinished(self, limit: int) -> list[Entry]:
        """The last entry of each payload whose fate is not recorded, in log order; LogError when it cannot read."""


Messages = AsyncIterator[tuple[bytes, bool]]
"""Websocket messages, each with whether it came in a binary frame."""

Connect = Callable[[str], AbstractAsyncContextManager[Messages]]
"""Opens a websocket client connection to a URL; raises UnavailableError, also while it is read."""
