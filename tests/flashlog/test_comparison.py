"""Two hosts' logs side by side."""

from contextlib import closing
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.flashlog import comparison, open_flashlog
from appliance.flashlog.comparison import Comparison, compare
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import backup
from appliance.flashlog.store import Store
from tests.flashlog.support import flashblock, payload_id, store_append


def make(folder: Path, *items: Flashblock, removed_through: int = 0) -> Path:
    folder.mkdir()
    with closing(Store(folder / DATABASE_NAME)) as store:
        for item in items:
            store_append(store, item)
        store.apply([lambda s: s.remove_through(removed_through)])
    return folder


def payload(number: int, count: int, text: str = "", split: int = 0) -> list[Flashblock]:
    return [flashblock(number, index, text=text if index >= split else "") for index in range(count)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "one", tmp_path / "other"


def both(folders: tuple[Path, Path], mine: list[Flashblock], theirs: list[Flashblock]) -> Comparison:
    one, other = make(folders[0], *mine), make(folders[1], *theirs)
    found, mirrored = compare(one, other), compare(other, one)
    assert (found.difference_count, found.entries) == (mirrored.difference_count, mirrored.entries)
    assert sorted(found.differences) == sorted(mirrored.differences)
    return found


def test_logs_with_the_same_entries_are_the_same_whatever_their_order(folders: tuple[Path, Path]) -> None:
    one, two = payload(1, 3), payload(2, 2)
    found = both(folders, [*one, *two], [two[0], one[0], two[1], *one[1:]])
    assert found.same
    assert (found.payloads, found.entries) == (2, 5)


def test_what_one_of_them_lacks_is_told_with_whom(folders: tuple[Path, Path]) -> None:
    found = both(folders, [*payload(1, 3), *payload(2, 2)], [*payload(1, 2), *payload(3, 1)])
    assert sorted(found.differences) == [
        f"payload {payload_id(1)} of block 1001: from index 2 on only in {folders[0]}",
        f"payload {payload_id(2)} of block 1002: only in {folders[0]}, 2 entries",
        f"payload {payload_id(3)} of block 1003: only in {folders[1]}, 1 entries",
    ]
    assert (found.payloads, found.entries) == (1, 2)


def test_another_body_is_told_with_its_index(folders: tuple[Path, Path]) -> None:
    found = both(folders, payload(1, 4), payload(1, 4, "other", split=2))
    assert found.differences == [f"payload {payload_id(1)} of block 1001: other bodies from index 2 on"]


def test_another_encoding_is_another_body(folders: tuple[Path, Path]) -> None:
    found = both(folders, [flashblock(1, 0)], [flashblock(1, 0, encoding=Encoding.BROTLI)])
    assert not found.same


def test_what_retention_removed_from_one_is_no_difference(folders: tuple[Path, Path]) -> None:
    everything = [*payload(1, 2), *payload(2, 2), *payload(3, 2)]
    one = make(folders[0], *everything, removed_through=4)
    other = make(folders[1], *everything)
    for found in (compare(one, other), compare(other, one)):
        assert found.same
        assert found.payloads == 1


async def test_a_log_in_use_is_compared_with_a_backup_of_it(folders: tuple[Path, Path]) -> None:
    copy = folders[1].with_suffix(".db")
    async with open_flashlog(folders[0]) as log:
        await log.append(flashblock(1, 0), "a")
        backup(folders[0], copy)
        assert compare(folders[0], copy).same
        await log.append(flashblock(1, 1), "a")
        assert compare(folders[0], copy).difference_count == 1


def test_many_differences_are_counted(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_DIFFERENCES", 3)
    found = both(folders, [flashblock(number, 0) for number in range(1, 8)], [])
    assert (found.difference_count, len(found.differences)) == (7, 3)


def test_what_is_no_log_is_one_clear_line(folders: tuple[Path, Path]) -> None:
    make(folders[0])
    with pytest.raises(LogError, match="there is no flashblock log at"):
        compare(folders[0], folders[1])


def test_progress_ends_with_all_payloads(folders: tuple[Path, Path]) -> None:
    told: list[tuple[int, int]] = []
    compare(make(folders[0], *payload(1, 1)), make(folders[1]), lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
