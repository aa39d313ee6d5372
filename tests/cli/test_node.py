"""`appliance node` and `appliance run --mock-node`."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from rich.console import Console

from appliance.cli import main
from appliance.cli.mock_node import mock_config, run_beside_mock_node
from appliance.cli.node import render
from appliance.domain.errors import ConfigError
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, open_listener, serve_http

NODE = {
    "uri": "http://foo:8545",
    "source": "added",
    "workers": 8,
    "in_flight": 2,
    "kept": True,
    "problem": None,
    "attested": None,
    "explain": {"state": "returning", "capacity": 3, "reason": "passed 2 checks in a row"},
}


class Admin:
    """An admin API in a thread, since commands run a loop of their own."""

    def __init__(self, status: int, body: object) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answer = HttpResponse(status, msgspec.json.encode(body))
        self._listener = open_listener("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def handle(self, request: HttpRequest) -> HttpResponse:
        body = msgspec.json.decode(request.body) if request.body else None
        self.asked.append((request.method, request.target, body))
        return self._answer

    def run(self, *arguments: str, command: str = "node") -> int:
        """A command against it; its exit code."""
        return trio.run(self._run, (command, *arguments))

    async def _run(self, arguments: tuple[str, ...]) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            code: int = await trio.to_thread.run_sync(main, [*arguments, "--url", self.url])
            nursery.cancel_scope.cancel()
        return code

    async def _serve(self) -> None:
        await serve_http(self.handle, self._listener, limits=HttpLimits(), stopping=trio.Event(), drain_timeout_s=0.0)


def test_list_shows_each_node_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    admin = Admin(200, {"nodes": [NODE], "problem": None})
    assert admin.run("list") == 0
    shown = capsys.readouterr().out
    for text in ("http://foo:8545", "added", "3/8", "returning", "passed 2 checks"):
        assert text in shown
    assert admin.asked == [("GET", "/api/v1/lb/nodes", None)]


def test_a_node_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    why = "3 requests in a row failed, the last one: no answer from http://foo:8545 in time " * 3
    admin = Admin(
        200, {"nodes": [NODE | {"explain": {"state": "ejected", "capacity": 0, "reason": why}}], "problem": None}
    )
    assert admin.run("list") == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.rstrip().endswith(why.rstrip())


def test_a_width_that_is_asked_for_holds_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert Admin(200, {"nodes": [NODE], "problem": None}).run("list") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"nodes": [NODE], "problem": None}
    assert Admin(200, body).run("list", "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out) == body


@pytest.mark.parametrize(("command", "problem"), [("add", "a restart forgets it"), ("remove", "may bring it back")])
def test_a_change_that_is_not_kept_is_said(command: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    admin = Admin(200, NODE | {"kept": False, "problem": f"not kept, {problem}: the disk is full"})
    assert admin.run(command, "http://foo:8545") == 0
    assert capsys.readouterr().err == f"appliance: not kept, {problem}: the disk is full\n"


def test_a_refused_node_has_no_workers_and_a_reason() -> None:
    console = Console(file=io.StringIO(), width=120)
    explain = {"state": "refused", "capacity": 0, "reason": "attestation of SGX nodes is not available"}
    console.print(render({"nodes": [NODE | {"workers": None, "explain": explain}], "problem": None}))
    assert isinstance(console.file, io.StringIO)
    row = console.file.getvalue().splitlines()[1]
    assert "0/-" in row
    assert "refused" in row


def test_a_node_is_shown_whole_in_a_narrow_terminal() -> None:
    """It is what `remove` is given."""
    console = Console(file=io.StringIO(), width=80)
    uri = "http://…@validation-1.internal:8545/…cc713549"
    console.print(render({"nodes": [{**NODE, "uri": uri}], "problem": None}))
    assert uri in console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO


def test_a_problem_of_keeping_nodes_is_shown() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(render({"nodes": [], "problem": "the disk is full"}))
    assert "the disk is full" in console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO


def test_nodes_that_differ_in_the_port_can_be_told_apart_on_a_narrow_terminal() -> None:
    console = Console(file=io.StringIO(), width=70)
    nodes = [NODE | {"uri": f"http://10.20.30.40:{port}"} for port in (18601, 18602)]
    console.print(render({"nodes": nodes, "problem": None}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    columns = "".join(line.split(" ")[0] for line in shown.splitlines())
    assert "http://10.20.30.40:18601" in columns
    assert "http://10.20.30.40:18602" in columns


def test_add_sends_what_was_asked_and_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    admin = Admin(200, NODE)
    assert admin.run("add", "http://foo:8545", "--workers", "8") == 0
    assert capsys.readouterr().out == "http://foo:8545: 8 workers, returning\n"
    ((method, target, body),) = admin.asked
    assert (method, target) == ("POST", "/api/v1/lb/nodes")
    assert (body["uri"], body["workers"], body["via"]) == ("http://foo:8545", 8, "cli")


def test_remove(capsys: pytest.CaptureFixture[str]) -> None:
    admin = Admin(200, {"nodes": [], "problem": None})
    assert admin.run("remove", "http://foo") == 0
    assert capsys.readouterr().out == "removed\n"
    assert admin.asked[0][0] == "DELETE"


def test_a_refusal_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    admin = Admin(400, {"message": "health check of http://foo failed: status 500"})
    assert admin.run("add", "http://foo") == 1
    assert capsys.readouterr().err == "appliance: health check of http://foo failed: status 500\n"


def test_a_host_without_a_load_balancer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert Admin(404, {"message": "no such path"}).run("list") == 1
    assert "[lb]" in capsys.readouterr().err


def test_status_asks_for_the_admin_address_and_not_for_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert Admin(404, {"message": "no such path"}).run(command="status") == 1
    assert "has no /api/v1/status: is it the admin address of a host with [admin]?" in capsys.readouterr().err


def test_run_without_a_file_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "--config FILE is missing" in capsys.readouterr().err


def test_the_mock_node_stands_beside_the_files_nodes(tmp_path: Path) -> None:
    alone = mock_config(None, tmp_path)
    assert alone.lb is not None
    assert [node.url for node in alone.lb.nodes] == ["http://127.0.0.1:8095"]
    assert alone.admin is not None
    assert alone.store.folder == str(tmp_path)
    file = tmp_path / "a.toml"
    file.write_text('[lb]\ntries = 2\n[[lb.nodes]]\nurl = "http://a"')
    both = mock_config(file, tmp_path)
    assert both.lb is not None
    assert ([node.url for node in both.lb.nodes], both.lb.tries) == (["http://a", "http://127.0.0.1:8095"], 2)
    file.write_text("[fanout]")
    with pytest.raises(ConfigError, match=r"has no section \[lb\]"):
        mock_config(file, tmp_path)


async def test_the_mock_node_is_there_while_the_rest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    async def mock(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        steps.append("up")
        try:
            await trio.sleep_forever()
        finally:
            steps.append("down")

    async def run() -> None:
        steps.append("run")

    monkeypatch.setattr("appliance.cli.mock_node.run_mock_node", mock)
    await run_beside_mock_node(run)
    assert steps == ["up", "run", "down"]


def test_check_config_names_the_plane_and_refuses_attested_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[lb]\n[[lb.nodes]]\nurl = "http://a"')
    assert main(["check-config", str(file)]) == 0
    assert "it runs lb" in capsys.readouterr().out
    attested = f'[[lb.nodes]]\nurl = "https://SGX_{"ab" * 32}@'
    file.write_text(f'[lb]\n{attested}a"\n[[lb.nodes]]\nurl = "http://b"\n{attested}c"')
    expected = "expected a node that need not be attested: attestation of SGX nodes is not available in this build"
    for command in (["check-config"], ["run", "--config"]):
        assert main([*command, str(file)]) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith('appliance: lb.nodes[0].url: found "https://SGX_…@a/…')
        assert second.startswith('appliance: lb.nodes[2].url: found "https://SGX_…@c/…')
        assert first.endswith(expected)
        assert second.endswith(expected)
