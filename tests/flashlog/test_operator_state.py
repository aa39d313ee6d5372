"""state.db: the switch outlives everything, and a file that is not ours is left alone."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.domain.lb_nodes import AddedNode
from appliance.domain.modes import ExecutionMode, ModeChange
from appliance.flashlog import operator_state
from appliance.flashlog.operator_state import OperatorState

ENABLED, DRY_RUN, DISABLED = ExecutionMode.ENABLED, ExecutionMode.DRY_RUN, ExecutionMode.DISABLED


def change(mode: ExecutionMode, at: float = 1_700_000_000.5, who: str = "cli 127.0.0.1 (root)") -> ModeChange:
    return ModeChange(mode, ENABLED, at, who)


def test_a_switch_that_was_never_thrown_leaves_no_file(tmp_path: Path) -> None:
    assert OperatorState(tmp_path / "not there").last_mode_change() is None
    assert OperatorState(tmp_path).last_mode_change() is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_throw_is_where_it_stands_and_the_others_are_its_history(tmp_path: Path) -> None:
    state = OperatorState(tmp_path / "made")
    for number, mode in enumerate((DRY_RUN, DISABLED, ENABLED)):
        state.add_mode_change(change(mode, at=float(number)))
    again = OperatorState(tmp_path / "made")
    assert again.last_mode_change() == change(ENABLED, at=2.0)
    assert [each.mode for each in again.mode_changes(limit=10)] == [ENABLED, DISABLED, DRY_RUN]


def test_the_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_state, "MAX_CHANGES", 3)
    state = OperatorState(tmp_path)
    for number in range(10):
        state.add_mode_change(change(DRY_RUN, at=float(number)))
    assert [each.at for each in state.mode_changes(limit=100)] == [9.0, 8.0, 7.0]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 500])
def test_a_damaged_file_is_one_clear_line_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    state = OperatorState(tmp_path)
    state.path.write_bytes(content)
    for call in (state.last_mode_change, lambda: state.add_mode_change(change(DISABLED))):
        with pytest.raises(LogError, match=r"state\.db"):
            call()
    assert state.path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    state = OperatorState(tmp_path)
    with sqlite3.connect(state.path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(LogError, match="is not a state file of the appliance"):
        state.add_mode_change(change(DISABLED))


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LogError, match=r"cannot create .*state\.db"):
        OperatorState(tmp_path / "file").add_mode_change(change(DISABLED))


def test_it_is_a_state_file_and_of_one_schema(tmp_path: Path) -> None:
    state = OperatorState(tmp_path)
    state.add_mode_change(change(DISABLED))
    with sqlite3.connect(state.path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (0x41535441,)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    assert repr(state) == f"<OperatorState {tmp_path}/state.db>"


def test_added_nodes_are_kept_changed_and_forgotten(tmp_path: Path) -> None:
    state = OperatorState(tmp_path / "new")
    assert state.lb_nodes() == []
    first, second = AddedNode("http://a", None, 1.0, "cli"), AddedNode("http://b", 4, 2.0, "nodes api 10.0.0.1")
    state.keep_lb_node(second)
    state.keep_lb_node(first)
    assert OperatorState(tmp_path / "new").lb_nodes() == [first, second]
    changed = AddedNode("http://a", 9, 3.0, "cli")
    state.keep_lb_node(changed)
    assert state.lb_nodes() == [second, changed]
    state.forget_lb_node("http://b")
    state.forget_lb_node("http://never")
    assert state.lb_nodes() == [changed]


def test_a_file_of_before_the_nodes_is_taken_up(tmp_path: Path) -> None:
    old = OperatorState(tmp_path)
    old.add_mode_change(ModeChange(ExecutionMode.DISABLED, ExecutionMode.ENABLED, 1.0, "cli"))
    with contextlib.closing(sqlite3.connect(old.path)) as connection:
        connection.execute("DROP TABLE lb_nodes")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0002_lb_nodes'")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    assert OperatorState(tmp_path).lb_nodes() == []
    assert OperatorState(tmp_path).last_mode_change() is not None
