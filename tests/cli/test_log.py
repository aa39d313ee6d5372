"""`appliance log` as operators call it."""

from contextlib import closing
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.flashlog.jsonl import from_line
from appliance.flashlog.rows import Refused
from appliance.flashlog.store import Store
from tests.flashlog.support import flashblock, store_append


def make(folder: Path, *payloads: int) -> Path:
    folder.mkdir()
    with closing(Store(folder / "flashlog.db")) as store:
        for payload in payloads:
            store_append(store, flashblock(payload, 0), now=float(payload))
    return folder / "flashlog.db"


def test_comparing_the_logs_of_two_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make(tmp_path / "one", 1, 2), make(tmp_path / "other", 2, 1)
    assert main(["log", "compare", str(one), str(other.parent)]) == 0
    assert capsys.readouterr().out == "the same; 2 payloads and 2 entries in both\n"
    more = make(tmp_path / "more", 1, 2, 3)
    assert main(["log", "compare", str(one), str(more)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"payload 0x0000000000000003 of block 1003: only in {more}, 1 entries",
        "1 differences; 2 payloads and 2 entries in both",
    ]


def refusing(folder: Path) -> Path:
    """A log that has refused a second body, as another host brought it, and one of a payload that it does not hold."""
    path = make(folder, 1, 2)
    with closing(Store(path)) as store:
        for payload, builder in ((2, "alpha@b"), (9, "beta")):
            second = flashblock(payload, 0, text="second")
            refused = Refused(second.payload_id, 0, second.encoding, builder, 1_700_000_000.25, second.body)
            store.keep_evidence(refused)
            store.connection.commit()
    return path


def test_what_a_log_refused_is_shown_with_who_sent_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = refusing(tmp_path / "log")
    size = len(flashblock(2, 0, text="second").body)
    assert main(["log", "evidence", "--log", str(path)]) == 0
    sent = f"index 0: {size} bytes from"
    assert capsys.readouterr().out.splitlines() == [
        f"payload 0x0000000000000002 of block 1002, {sent} alpha@b at 2023-11-14T22:13:20.250+00:00",
        f"payload 0x0000000000000009 of block ?, {sent} beta at 2023-11-14T22:13:20.250+00:00; nothing is held there",
    ]
    assert main(["log", "verify", "--log", str(path)]) == 0
    assert "2 entries of 2 payloads; 2 refused second bodies: see `appliance log evidence`" in capsys.readouterr().out


def test_what_was_refused_comes_whole_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = refusing(tmp_path / "log")
    assert main(["log", "evidence", "--raw", "--log", str(path.parent)]) == 0
    first, _ = [from_line(line.encode()) for line in capsys.readouterr().out.splitlines()]
    assert first.body == flashblock(2, 0, text="second").body
    assert (first.builder, first.index, first.position) == ("alpha@b", 0, 2)


def test_a_log_that_refused_nothing_has_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "log", 1)
    assert main(["log", "evidence", "--log", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["log", "evidence", "--log", str(tmp_path / "none.db")]) == 1


def test_pruning_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "log", *range(10))
    assert main(["log", "prune", "--log", str(path), "--keep-hours", "1", "--dry-run"]) == 0
    assert "9 entries of 9 payloads would go" in capsys.readouterr().out
    assert main(["log", "prune", "--log", str(path), "--keep-mib", "0"]) == 0
    assert "9 entries of 9 payloads removed" in capsys.readouterr().out
    assert main(["log", "verify", "--log", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "say how much to keep: --keep-hours, --keep-mib or both"),
        (["--keep-hours", "-1"], "expected a number from 0"),
        (["--keep-mib", "nan"], "expected a number from 0"),
    ],
)
def test_pruning_wants_to_know_what_to_keep(
    tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "log", 1)
    assert main(["log", "prune", "--log", str(path), *arguments]) == 2
    assert error in capsys.readouterr().err


def exported(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["log", "export", "--log", str(path), "-"]) == 0
    return capsys.readouterr().out


def test_each_command_works_on_the_file_that_is_named_and_leaves_the_log_beside_it_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """copy.db is a backup from before half of the log came, in the log's own folder."""
    log, copy, out = make(tmp_path / "log", *range(5)), tmp_path / "log" / "copy.db", tmp_path / "out"
    assert main(["log", "backup", "--log", str(log), str(copy)]) == 0
    with closing(Store(log)) as store:
        for payload in range(5, 10):
            store_append(store, flashblock(payload, 0), now=float(payload))
    capsys.readouterr()
    whole = exported(log, capsys)
    assert exported(copy, capsys) == "".join(whole.splitlines(keepends=True)[:5])
    assert main(["log", "verify", "--log", str(copy)]) == 0
    assert "5 entries" in capsys.readouterr().out
    assert main(["log", "backup", "--log", str(copy), str(out)]) == 0
    assert main(["log", "compare", str(copy), str(out)]) == 0
    assert main(["log", "compare", str(copy), str(log)]) == 1
    assert main(["log", "prune", "--log", str(copy), "--keep-mib", "0"]) == 0
    assert f"{copy}: 4 entries of 4 payloads removed" in capsys.readouterr().out
    assert exported(copy, capsys).count("\n") == 1
    assert main(["log", "import", "--log", str(copy), str(out)]) == 2
    assert "must be named flashlog.db" in capsys.readouterr().err
    assert exported(log, capsys) == whole
    assert exported(out, capsys) == "".join(whole.splitlines(keepends=True)[:5])


def test_what_a_copy_refused_is_not_what_the_log_beside_it_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = make(tmp_path / "log", 1)
    assert main(["log", "backup", "--log", str(refusing(tmp_path / "other")), str(log.parent / "copy.db")]) == 0
    capsys.readouterr()
    assert main(["log", "evidence", "--log", str(log.parent / "copy.db")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["log", "evidence", "--log", str(log)]) == 0
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_read_to_its_end_says_how_far_it_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "log", 1, 2, 3)
    with closing(Store(path)) as store:
        store.connection.execute("PRAGMA ignore_check_constraints = ON")
        store.connection.execute("UPDATE entries SET encoding = 'gzip' WHERE position = 3")
    assert main(["log", "verify", "--log", str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "reading the entries stopped: 'gzip' is not a valid Encoding",
        f"{path}: NOT whole; 2 entries read, up to position 2",
    ]


def test_an_import_that_fails_says_what_it_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = exported(make(tmp_path / "log", 1, 2, 3), capsys).splitlines(keepends=True)
    source, into = tmp_path / "in.jsonl", make(tmp_path / "into", 1)
    source.write_text("".join([*lines[:2], "nonsense\n", lines[2]]))
    for added, known in ((1, 1), (0, 2)):
        assert main(["log", "import", "--log", str(into), str(source)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("appliance: line 3: not an exported entry: ")
        assert error.endswith(f"; before that {added} entries were added, {known} were there already\n")


def test_an_import_whose_first_line_is_wrong_makes_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("nonsense\n")
    assert main(["log", "import", "--log", str(tmp_path / "new" / "flashlog.db"), str(source)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("appliance: line 1: not an exported entry: ")
    assert error.endswith("; no log was made\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
