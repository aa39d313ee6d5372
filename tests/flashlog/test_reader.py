"""What the reading side does with a damaged body, and with folders that are new."""

import sqlite3
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.flashlog import files
from appliance.flashlog.reader import Reader
from appliance.flashlog.store import Removed, Store
from tests.flashlog.support import flashblock, store_append

MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three payloads of two entries each."""
    path = tmp_path / "flashlog.db"
    store = Store(path)
    for payload in (1, 2, 3):
        for index in (0, 1):
            store_append(store, flashblock(payload, index, block=payload))
    store.close()
    return path


def damage(path: Path, position: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET body = x'00' WHERE position = ?", (position,))
    connection.commit()
    connection.close()


def positions(path: Path, *, after: int) -> list[int]:
    reader = Reader(path)
    try:
        return [entry.position for entry in reader.read(after, 6, 10, MIB)]
    finally:
        reader.close()


def newest(path: Path) -> list[int]:
    reader = Reader(path)
    try:
        return [entry.position for entry in reader.newest(10, MIB)]
    finally:
        reader.close()


def test_a_damaged_body_is_never_read_as_an_entry(path: Path) -> None:
    damage(path, 4)
    assert positions(path, after=0) == [1, 2, 3]
    with pytest.raises(LogError, match="position 4: the body does not have its checksum"):
        positions(path, after=3)
    assert positions(path, after=4) == [5, 6]


def test_a_start_knows_what_follows_a_damaged_body(path: Path) -> None:
    damage(path, 4)
    assert newest(path) == [5, 6]
    damage(path, 6)
    assert newest(path) == []


def test_retention_removes_a_damaged_body(path: Path) -> None:
    damage(path, 2)
    store = Store(path)
    assert store.apply([lambda store: store.remove_through(2)]) == [Removed(1, 2, 2 * 256 + _bytes(path, 1))]
    store.close()


def _bytes(path: Path, position: int) -> int:
    """Bodies are equally long here; the damaged one counts as what it was."""
    connection = sqlite3.connect(path)
    (size,) = connection.execute("SELECT length(body) FROM entries WHERE position > ?", (position + 2,)).fetchone()
    connection.close()
    return 2 * int(size)


def test_all_folders_that_are_made_outlive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.create_folder(tmp_path / "a" / "b" / "c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    synced.clear()
    files.create_folder(tmp_path / "a" / "b" / "c")
    assert synced == []
