"""In which order a host's subscribers get its log."""

from pathlib import Path

from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.reader import Reader


def order_of(folder: Path) -> tuple[tuple[str, int], ...]:
    """(payload id, index) of all that a log holds; the host may run."""
    reader = Reader(folder / DATABASE_NAME)
    records = reader.records(0, 2**40, 2**40, 2**40)
    reader.close()
    return tuple((str(record.payload_id), record.index) for record in records)
