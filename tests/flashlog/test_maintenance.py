import io
import json
from contextlib import closing
from pathlib import Path

import pytest
import trio

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadState
from appliance.domain.positions import AfterBlock
from appliance.flashlog import maintenance, open_flashlog
from appliance.flashlog.connection import FolderLock
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import Imported, backup, export, export_to, import_, import_from, verify
from appliance.flashlog.reader import Reader
from appliance.flashlog.replica_jobs import commit_imported
from appliance.flashlog.store import Store
from tests.flashlog.support import flashblock, payload_id, real_flashblocks, store_append

MAX = 2**40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log with a real block, text and brotli, and retention behind it."""
    made = tmp_path / "log"
    made.mkdir()
    with closing(Store(made / DATABASE_NAME)) as store:
        store_append(store, flashblock(1, 0))
        for original in real_flashblocks():
            store_append(store, original, builder="builder-1", now=1760000000.125)
        for index in range(3):
            store_append(store, flashblock(2, index, text="é\u2028", encoding=Encoding.BROTLI), builder="b-2")
        store.apply([lambda s: s.remove_through(1)])
    return made


def bodies(folder: Path) -> list[bytes]:
    with closing(Reader(folder / DATABASE_NAME)) as reader:
        mark = reader.mark()
        return [entry.body for entry in reader.read(mark.position if mark else 0, MAX, MAX, MAX)]


def test_an_export_has_one_line_per_entry(folder: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    out = tmp_path / "log.jsonl"
    assert export(folder, out, lambda done, total: progress.append((done, total))) == 8
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["position"] for line in lines] == list(range(2, 10))
    assert [line["body"].encode() for line in lines[:5]] == [original.body for original in real_flashblocks()]
    assert {line["received_at"] for line in lines[:5]} == {1760000000.125}
    assert [line["encoding"] for line in lines] == ["text"] * 5 + ["brotli"] * 3
    assert progress == [(8, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.jsonl"]


def test_an_export_that_is_imported_is_the_same_export(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "first.jsonl")
    progress: list[tuple[int, int]] = []
    again = tmp_path / "again"
    imported = import_(again, tmp_path / "first.jsonl", lambda done, total: progress.append((done, total)))
    assert imported == Imported(added=8, known=0)
    size = (tmp_path / "first.jsonl").stat().st_size
    assert progress[-1] == (size, size)
    export(again, tmp_path / "second.jsonl")
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()
    assert bodies(again) == bodies(folder)
    report = verify(again)
    assert report.ok, report.problems


def test_an_import_can_be_repeated(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    assert import_(folder / DATABASE_NAME, tmp_path / "log.jsonl") == Imported(added=0, known=8)
    assert import_(tmp_path / "new", tmp_path / "log.jsonl").added == 8
    assert import_(tmp_path / "new", tmp_path / "log.jsonl") == Imported(added=0, known=8)


def test_what_an_import_adds_to_a_log_comes_after_its_entries(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    other = tmp_path / "other"
    other.mkdir()
    with closing(Store(other / DATABASE_NAME)) as store:
        for payload in range(10, 14):
            store_append(store, flashblock(payload, 0))
    assert import_(other, tmp_path / "log.jsonl").added == 8
    with closing(Reader(other / DATABASE_NAME)) as reader:
        assert [entry.position for entry in reader.read(0, MAX, MAX, MAX)] == list(range(1, 13))
        record = reader.payload(payload_id(2))
    assert record is not None
    assert record.state is PayloadState.SEALED
    assert verify(other).ok


def edited(folder: Path, tmp_path: Path, number: int, **changes: object) -> Path:
    """An export with one line changed, by its number from 1."""
    stream = io.BytesIO()
    export_to(folder, stream)
    lines = stream.getvalue().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changes}).encode()
    out = tmp_path / "edited.jsonl"
    out.write_bytes(b"\n".join(lines))
    return out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"index": 9}, "line 3: the body is not flashblock 9 of payload 0x"),
        ({"payload_id": payload_id(9)}, "line 3: the body is not flashblock 2 of payload 0x"),
        ({"body": "{"}, "line 3: the body does not decode: "),
        ({"block_number": 5}, "line 3: the body says block 35535698, not 5"),
        ({"position": None}, "line 3: not an exported entry: "),
        ({"body": f'{{"payload_id": "{payload_id(9)}"}}'}, "line 3: the body is not flashblock 2"),
    ],
)
def test_an_import_stops_at_a_line_that_is_wrong(
    folder: Path, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    source = edited(folder, tmp_path, 3, **changes)
    with pytest.raises(LogError, match=f"^{why}"):
        import_(tmp_path / "new", source)
    assert len(bodies(tmp_path / "new")) == 2
    assert verify(tmp_path / "new").ok


def test_an_import_with_a_gap_stops_there(folder: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    export_to(folder, stream)
    lines = stream.getvalue().splitlines(keepends=True)
    del lines[1]
    with pytest.raises(
        LogError,
        match=r"^line 2: flashblock 2 of payload 0x.*: expected index 1; before that 1 entries were added, 0 w",
    ):
        import_from(tmp_path / "new", io.BytesIO(b"".join(lines)))
    assert len(bodies(tmp_path / "new")) == 1


def test_an_import_of_another_body_is_refused_and_kept_as_evidence(folder: Path, tmp_path: Path) -> None:
    other = json.loads(real_flashblocks()[1].body)
    other["diff"]["gas_used"] = "0x1"
    source = edited(folder, tmp_path, 2, body=json.dumps(other))
    with pytest.raises(LogError, match=r"^line 2: flashblock 1 .* another body is held at position 3"):
        import_(folder, source)
    report = verify(folder)
    assert report.ok
    assert report.refused == 1


def test_an_import_of_many_lines_goes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "IMPORT_BATCH", 7)
    with closing(Store(tmp_path / DATABASE_NAME)) as store:
        for payload in range(30):
            for index in range(3):
                store_append(store, flashblock(payload, index))
    export(tmp_path, tmp_path / "log.jsonl")
    assert import_(tmp_path / "new", tmp_path / "log.jsonl").added == 90
    assert bodies(tmp_path / "new") == bodies(tmp_path)


async def test_an_import_into_a_log_in_use_is_refused(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    async with open_flashlog(folder):
        with pytest.raises(LogError, match="is in use by another process"):
            import_(folder, tmp_path / "log.jsonl")


async def replicated(folder: Path, payload: int, *, committed: bool) -> None:
    """Append to a log that waits for other hosts."""
    async with open_flashlog(folder, commit_on_append=False) as log:
        entry = await log.append(flashblock(payload, 0), "alpha")
        if committed:
            log.commit_through(entry.position)


async def test_what_is_imported_into_a_replicated_log_is_committed_for_no_votes_for_it_would_come(
    folder: Path, tmp_path: Path
) -> None:
    export(folder, tmp_path / "log.jsonl")
    other = tmp_path / "other"
    await replicated(other, 10, committed=True)
    assert import_(other, tmp_path / "log.jsonl").added == 8
    async with open_flashlog(other, commit_on_append=False) as log:
        assert (log.committed, log.appended) == (9, 9)


async def test_an_import_into_a_log_that_waits_for_other_hosts_is_refused(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    other = tmp_path / "other"
    await replicated(other, 10, committed=True)
    await replicated(other, 11, committed=False)
    with pytest.raises(LogError, match="1 flashblocks of this log wait for other hosts: run the appliance beside them"):
        import_(other, tmp_path / "log.jsonl")
    async with open_flashlog(other, commit_on_append=False) as log:
        assert (log.committed, log.appended) == (1, 2)


async def test_a_log_that_is_not_replicated_stays_so_when_it_is_imported_into(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    import_(tmp_path / "new", tmp_path / "log.jsonl")
    with closing(Store(tmp_path / "new" / DATABASE_NAME)) as store:
        assert store.connection.execute("SELECT committed FROM replication").fetchone() == (None,)


def test_import_needs_a_folder_and_a_source(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LogError, match=r"^cannot import into .*/file: a log is a folder"):
        import_(tmp_path / "file", tmp_path / "file")
    with pytest.raises(LogError, match=r"^cannot read .*/none: No such file or directory$"):
        import_(folder, tmp_path / "none")


def test_a_backup_is_a_log(folder: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    restored = tmp_path / "restored"
    restored.mkdir()
    to = restored / DATABASE_NAME
    size = backup(folder, to, lambda done, total: progress.append((done, total)))
    assert size == to.stat().st_size
    assert progress[-1][0] == progress[-1][1] > 0
    assert [path.name for path in restored.iterdir()] == [DATABASE_NAME]
    report = verify(to)
    assert report.ok
    assert bodies(restored) == bodies(folder)
    assert [path.name for path in restored.iterdir()] == [DATABASE_NAME]  # reading made nothing beside it
    with closing(Store(to)) as store:
        assert store_append(store, flashblock(9, 0)).entry.position == 10


async def test_a_backup_is_one_moment_of_a_log_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BACKUP_PAGES", 4)
    folder = tmp_path / "log"
    async with open_flashlog(folder) as log:
        for payload in range(20):
            await log.append(flashblock(payload, 0, size=20_000), "a")
        before = log.head
        steps: list[int] = []

        def append_meanwhile(done: int, _total: int) -> None:
            steps.append(done)
            trio.from_thread.run(log.append, flashblock(1000 + len(steps), 0), "a")

        await trio.to_thread.run_sync(backup, folder, tmp_path / "copy.db", append_meanwhile)
        assert log.head == before + len(steps)
        assert (await log.locate(AfterBlock(1000, 0))).position == 1
    report = verify(tmp_path / "copy.db")
    assert report.ok
    assert report.entries == before
    assert len(steps) > 10


async def test_export_verify_and_backup_work_beside_a_running_appliance(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with open_flashlog(folder) as log:
        await log.append(flashblock(1, 0), "a")
        assert export(folder, tmp_path / "out.jsonl") == 1
        backup(folder, tmp_path / "copy.db")
        assert (await log.append(flashblock(1, 1), "a")).position == 2
    assert verify(tmp_path / "copy.db").entries == 1


@pytest.mark.parametrize("command", [export, backup])
def test_nothing_is_overwritten(folder: Path, tmp_path: Path, command: object) -> None:
    assert callable(command)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(LogError, match=rf"^{tmp_path}/out exists already$"):
        command(folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize("command", [export, backup])
def test_a_place_that_cannot_be_written_is_a_clear_line(folder: Path, tmp_path: Path, command: object) -> None:
    assert callable(command)
    with pytest.raises(LogError, match=rf"^there is no folder {tmp_path}/none$"):
        command(folder, tmp_path / "none" / "out")


@pytest.mark.parametrize("command", [export, backup])
def test_a_log_that_is_not_there_is_a_clear_line_and_leaves_nothing(tmp_path: Path, command: object) -> None:
    assert callable(command)
    with pytest.raises(LogError, match="there is no flashblock log at"):
        command(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_entry: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maintenance, "to_line", full)
    with pytest.raises(LogError, match=r"cannot write .*out.*: No space left on device"):
        export(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_an_import_goes_where_a_link_leads_and_so_does_its_lock(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    elsewhere, made = tmp_path / "elsewhere", tmp_path / "made"
    elsewhere.mkdir()
    made.mkdir()
    (elsewhere / DATABASE_NAME).symlink_to(made / DATABASE_NAME)
    lock = FolderLock(made)
    with pytest.raises(LogError, match=f"^the flashblock log in {made} is in use by another process"):
        import_(elsewhere / DATABASE_NAME, tmp_path / "log.jsonl")
    lock.release()
    lock = FolderLock(elsewhere)
    with pytest.raises(LogError, match=f"^the flashblock log in {elsewhere} is in use by another process"):
        import_(elsewhere / DATABASE_NAME, tmp_path / "log.jsonl")
    lock.release()
    assert import_(elsewhere, tmp_path / "log.jsonl").added == 8
    assert bodies(made) == bodies(folder)
    copy = tmp_path / "copy.db"
    backup(folder, copy)
    (elsewhere / DATABASE_NAME).unlink()
    (elsewhere / DATABASE_NAME).symlink_to(copy)
    with pytest.raises(LogError, match=r"^cannot import into .*: a log is a folder with flashlog\.db in it$"):
        import_(elsewhere / DATABASE_NAME, tmp_path / "log.jsonl")


def test_a_folder_that_is_named_as_a_log_is_a_folder(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "log.jsonl")
    inner = tmp_path / "outer" / DATABASE_NAME
    inner.mkdir(parents=True)
    assert import_(inner, tmp_path / "log.jsonl").added == 8
    assert bodies(inner) == bodies(folder)
    assert [path.name for path in inner.parent.iterdir()] == [DATABASE_NAME]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_backup_never_lies_beside_what_another_log_left(folder: Path, tmp_path: Path, suffix: str) -> None:
    left = tmp_path / f"copy.db{suffix}"
    left.write_bytes(b"of another log")
    with pytest.raises(LogError, match=f"^{left} exists already$"):
        backup(folder, tmp_path / "copy.db")
    assert left.read_bytes() == b"of another log"
    assert not (tmp_path / "copy.db").exists()


def test_a_new_log_does_not_begin_within_a_payload(folder: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    export_to(folder, stream)
    _, rest = stream.getvalue().split(b"\n", 1)
    with pytest.raises(LogError, match=r"^line 1: flashblock 1 of payload 0x.*: expected index 0; no log was made$"):
        import_from(tmp_path / "new", io.BytesIO(rest))
    assert not (tmp_path / "new").exists()
    with pytest.raises(LogError, match=r"^line 1: .* expected index 0; before that 0 entries were added, 0 were"):
        import_from(made_with(tmp_path / "other", 10), io.BytesIO(rest))


def made_with(folder: Path, payload: int) -> Path:
    folder.mkdir()
    with closing(Store(folder / DATABASE_NAME)) as store:
        store_append(store, flashblock(payload, 0))
    return folder


def test_what_a_failed_transaction_took_along_is_not_said_to_be_added(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of three; the disk is full when the second is committed."""
    export(folder, tmp_path / "log.jsonl")
    monkeypatch.setattr(maintenance, "IMPORT_BATCH", 3)
    calls = iter(range(9))

    def full_at_the_second(store: Store) -> None:
        commit_imported(store)
        if next(calls) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("appliance.flashlog.maintenance.commit_imported", full_at_the_second)
    with pytest.raises(
        LogError, match=r"No space left on device; before that 3 entries were added, 0 were there already$"
    ):
        import_(tmp_path / "new", tmp_path / "log.jsonl")
    assert len(bodies(tmp_path / "new")) == 3


async def test_what_came_before_a_line_that_is_wrong_is_committed_in_a_replicated_log_too(
    folder: Path, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    export_to(folder, stream)
    lines = stream.getvalue().splitlines(keepends=True)
    other = tmp_path / "other"
    await replicated(other, 10, committed=True)
    with pytest.raises(LogError, match=r"^line 2: .* before that 1 entries were added"):
        import_from(other, io.BytesIO(lines[0] + b"".join(lines[2:])))
    assert import_from(other, io.BytesIO(b"".join(lines))) == Imported(added=7, known=1)
