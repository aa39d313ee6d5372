"""Entries as another host's log has them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Copy, extend_prefix


def without_body(entry: Copy) -> Copy:
    """As its source sends it to whom it had it from."""
    return replace(entry, body=None)


def replicas(flashblocks: Iterable[Flashblock], first_position: int = 1, builder: str = "a") -> list[Copy]:
    """A peer's log of these flashblocks, in this order."""
    return list(_replicas(flashblocks, first_position, builder))


def _replicas(flashblocks: Iterable[Flashblock], position: int, builder: str) -> Iterator[Copy]:
    prefixes: dict[PayloadId, bytes] = {}
    for item in flashblocks:
        assert item.block_number is not None
        prefix = extend_prefix(prefixes.get(item.payload_id, b""), item.body, item.encoding)
        prefixes[item.payload_id] = prefix
        yield Copy(
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
