"""Second bodies that a log refused: who sent what, when. For operators who ask a builder or a host why."""

from collections.abc import Iterator
from pathlib import Path

from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.flashlog.connection import translated
from appliance.flashlog.jsonl import ExportedEntry
from appliance.flashlog.snapshot import database_path, open_snapshot


def evidence(path: Path) -> Iterator[ExportedEntry]:
    """All refused bodies that are kept, oldest first, while the log may be in use. LogError where there is no log.

    ``position`` is that of the body which is held in its place, 0 where there is none any more. ``builder`` is the
    builder's name, with ``@host`` behind it where another host's log brought the body.
    """
    database = database_path(path)
    with open_snapshot(database) as connection, translated("read", database):
        for row in connection.execute(
            "SELECT coalesce(e.position, 0), r.payload_id, r.idx, coalesce(p.block_number, 0), r.encoding, r.builder,"
            " r.received_at, r.body FROM refused r LEFT JOIN payloads p USING (payload_id)"
            " LEFT JOIN entries e ON e.payload_id = r.payload_id AND e.idx = r.idx ORDER BY r.id"
        ):
            position, payload_id, index, number, encoding, *rest = row
            yield ExportedEntry(position, PayloadId(payload_id), index, number, Encoding(encoding), *rest)
