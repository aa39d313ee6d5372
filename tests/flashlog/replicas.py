"""Entries as another host's log has them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import extend_prefix


@dataclass(frozen=True)
class FakeReplica:
    """What a peer sends of one entry."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes | None
    prefix: bytes

    def without_body(self) -> "FakeReplica":
        return FakeReplica(**{**self.__dict__, "body": None})


def replicas(flashblocks: Iterable[Flashblock], first_position: int = 1, builder: str = "a") -> list[FakeReplica]:
    """A peer's log of these flashblocks, in this order."""
    return list(_replicas(flashblocks, first_position, builder))


def _replicas(flashblocks: Iterable[Flashblock], position: int, builder: str) -> Iterator[FakeReplica]:
    prefixes: dict[PayloadId, bytes] = {}
    for item in flashblocks:
        assert item.block_number is not None
        prefix = extend_prefix(prefixes.get(item.payload_id, b""), item.body, item.encoding)
        prefixes[item.payload_id] = prefix
        yield FakeReplica(
            position,
            item.payload_id,
            item.index,
            item.block_number,
            item.encoding,
            builder,
            1000.0 + position,
            item.body,
            prefix,
        )
        position += 1
