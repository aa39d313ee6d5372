import pytest

from appliance.cli.parser import build_parser


@pytest.mark.parametrize("command", ["run", "check-config", "dev", "status", "tail", "log", "node"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: appliance {command}" in capsys.readouterr().out


def test_a_wrong_mode_is_told_the_words_that_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["mode", "foo"])
    assert "(choose from 'enabled', 'dry-run', 'disabled')" in capsys.readouterr().err
    for word in ("dry-run", "dry_run"):
        assert build_parser().parse_args(["mode", word]).mode == "dry-run"


def test_dev_lists_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["dev", "--help"])
    shown = capsys.readouterr().out
    for fault in ("builder-down", "builder-slow", "builder-invalid", "builder-gaps", "builder-equivocates", "el-down"):
        assert f"\n  {fault} " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--url", "127.0.0.1:9090"], "argument --url: expected http://… or https://…"),
        (["mode", "--url", "ws://127.0.0.1:9090"], "argument --url: expected http://… or https://…, found scheme 'ws'"),
        (["node", "list", "--url", "http://:9090"], "argument --url: expected http://host…, found no host"),
        (["tail", "--url", "ws://a/ws", "--url", "http://a/ws/KEY"], "argument --url: expected ws://… or wss://…"),
    ],
)
def test_a_url_that_is_none_is_said_by_the_option_and_not_shown(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "KEY" not in shown


@pytest.mark.parametrize("action", ["verify", "export", "import", "backup", "prune"])
def test_every_action_on_a_log_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["log", action, "--help"])
    assert caught.value.code == 0
    assert "--log FILE" in capsys.readouterr().out


def test_comparing_logs_has_help_and_takes_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["log", "compare", "--help"])
    assert "ONE OTHER" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log", "compare", "one"],
        ["nonsense"],
        ["node"],
        ["check-config"],
        ["check-config", "a", "--sample"],
        ["log"],
        ["log", "x"],
    ],
)
def test_bad_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: appliance")
