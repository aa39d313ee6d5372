"""The process as an operator meets it: configuration errors, ports in use, secrets, signals, exit codes."""

import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from appliance.devnet.network import Devnet, DevnetSettings
from appliance.net.errors import ConnectionBroken
from appliance.net.http_client import HttpClient
from appliance.net.websocket_client import Inbox
from tests.support.hosts import HostFiles, started, subscribe, take
from tests.support.ports import lasting_port
from tests.support.process import running

FANOUT_ONLY = '[store]\nfolder = "data"\n[fanout]\nlisten = "127.0.0.1:{port}"\n'


def appliance(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd, check=False)


def test_check_config_prints_every_error_and_exits_2(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[engine]\nlisten = "nowhere"\njwt_secret_file = "x"\n[engin]\n')
    done = appliance("check-config", str(path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "appliance: engin: found an unknown key, expected 'engine'?",
        "appliance: engine.l2: found nothing, expected a section [engine.l2]",
        'appliance: engine.listen: found "nowhere", expected an address as "host:port"',
    ]


def test_check_config_reports_every_secret_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    (tmp_path / "short.jwt").write_text("0xabcd")
    path.write_text(
        '[engine]\njwt_secret_file = "missing.jwt"\nl2 = { url = "http://el:8551", jwt_secret_file = "short.jwt" }\n'
    )
    done = appliance("check-config", str(path))
    assert done.returncode == 2
    missing, short = f"{tmp_path}/missing.jwt", f"{tmp_path}/short.jwt"
    assert done.stderr.splitlines() == [
        f"appliance: engine.jwt_secret_file: secret file {missing}: No such file or directory",
        f"appliance: engine.l2.jwt_secret_file: secret file {short}: expected 64 hex digits, found 4 characters",
    ]


def test_check_config_opens_the_certificates_and_warns_of_secrets_that_everybody_can_read(tmp_path: Path) -> None:
    path, tls = tmp_path / "a.toml", Path(__file__).parents[1] / "net" / "tls"
    (tmp_path / "shared").write_text("ab" * 32)
    (tmp_path / "shared").chmod(0o644)
    text = (
        f'[replication]\nhost_id = "a"\nsecret_file = "shared"\ntls_cert_file = "{tls}/certificate.pem"\n'
        'tls_key_file = "{key}"\n[[replication.peers]]\nhost_id = "b"\nurl = "wss://b:1"\n'
    )
    (tmp_path / "key.pem").write_text((tls / "key.pem").read_text())
    (tmp_path / "key.pem").chmod(0o600)
    path.write_text(text.replace("{key}", "key.pem"))
    done = appliance("check-config", str(path))
    warning = f"appliance: warning: replication.secret_file: everybody can read {tmp_path}/shared (mode 644)"
    assert (done.returncode, done.stdout) == (0, f"{path}: well; it runs replication\n")
    assert done.stderr.startswith(warning)
    path.write_text(text.replace("{key}", "none.pem"))
    done = appliance("check-config", str(path))
    assert done.returncode == 2
    assert done.stderr == f"appliance: replication.tls_key_file: {tmp_path}/none.pem: No such file or directory\n"


def test_check_config_says_what_a_good_file_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(FANOUT_ONLY.format(port=0))
    done = appliance("check-config", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: well; it runs fanout\n", "")


def test_the_sample_configuration_is_printed_and_passes_but_for_its_secrets(tmp_path: Path) -> None:
    sample = appliance("check-config", "--sample")
    path = tmp_path / "sample.toml"
    path.write_text(sample.stdout)
    done = appliance("check-config", str(path))
    assert done.returncode == 2
    assert all("_file: " in line and " file /etc/appliance/" in line for line in done.stderr.splitlines())


def test_run_with_a_bad_file_is_clear_lines_and_exit_code_2(tmp_path: Path) -> None:
    done = appliance("run", "--config", str(tmp_path / "missing.toml"))
    assert done.returncode == 2
    assert done.stderr == f"appliance: {tmp_path}/missing.toml: cannot be read: No such file or directory\n"


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "a.toml").write_text(FANOUT_ONLY.format(port=taken.getsockname()[1]))
        done = appliance("run", "--config", str(tmp_path / "a.toml"))
    assert done.returncode == 2
    assert done.stderr == f"appliance: fanout.listen: cannot listen on {address}: Address already in use\n"


def test_a_data_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(FANOUT_ONLY.format(port=0).replace('"data"', '"/proc/appliance"'))
    done = appliance("run", "--config", str(tmp_path / "a.toml"))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("appliance: store.folder: /proc/appliance: nothing can be written to /proc: ")


def test_a_data_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    (tmp_path / "a.toml").write_text(FANOUT_ONLY.format(port=0))
    done = appliance("run", "--config", str(tmp_path / "a.toml"))
    assert done.returncode == 2
    assert done.stderr == f"appliance: store.folder: {tmp_path / 'data'} is not a folder\n"


@pytest.mark.parametrize("arguments", [[], ["runn"], ["run"], ["tail", "--after", "x"], ["log", "verify", "--logg"]])
def test_bad_usage_exits_2_and_says_what_is_wrong(arguments: list[str]) -> None:
    done = appliance(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


async def test_two_appliances_on_one_folder_the_second_says_so(tmp_path: Path) -> None:
    def write() -> Path:
        path = tmp_path / "a.toml"
        path.write_text(FANOUT_ONLY.format(port=0) + '[log]\nformat = "json"\n')
        return path

    async with running(write):
        done = await trio.to_thread.run_sync(appliance, "run", "--config", str(tmp_path / "a.toml"))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert str(tmp_path / "data") in line


async def read_until_closed(inbox: Inbox, messages: list[bytes]) -> str:
    """Take what still comes; why the connection ended."""
    try:
        with trio.fail_after(60):
            async for body, _ in inbox:
                messages.append(body)
    except ConnectionBroken as error:
        return str(error)
    raise AssertionError("a websocket's messages end with an error")


async def test_sigterm_stops_in_order_and_closes_subscribers_with_their_position(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    devnet = Devnet(tmp_path, DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1))
    files = HostFiles(tmp_path, devnet)
    async with started(nursery, devnet), running(files.write) as host:
        await devnet.start_node(f"http://{host.addresses['engine']}", files.secret)
        async with subscribe(host.addresses["fanout"]) as inbox:
            messages = await take(inbox, 6)
            host.terminate()
            reason = await read_until_closed(inbox, messages)
        with trio.fail_after(60):
            assert await host.process.wait() == 0
    last = json.loads(messages[-1])
    assert "1001" in reason
    assert f"block_number={last['metadata']['block_number']} flashblock_index={last['index']}" in reason
    stopped = [line["message"] for line in host.lines if line["plane"] in ("supervisor", "fanout")]
    assert stopped[-3:] == ["stopping", "closing all subscribers", "stopped"]


async def test_status_shows_every_plane_and_metrics_keep_the_names_of_what_was_replaced(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    devnet = Devnet(tmp_path, DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1))
    files = HostFiles(tmp_path, devnet)
    async with started(nursery, devnet), running(files.write) as host:
        await devnet.start_node(f"http://{host.addresses['engine']}", files.secret)
        await host.wait_for_event("payload landed")  # a builder's block, and flashblocks of it in the log
        admin = f"http://{host.addresses['admin']}"
        async with HttpClient(admin) as client:
            status = json.loads((await client.request("GET", "/api/v1/status", timeout_s=60)).body)
            metrics = (await client.request("GET", "/metrics", timeout_s=60)).body.decode()
        shown = await trio.to_thread.run_sync(appliance, "status", "--url", admin)
    assert {name: plane["state"] for name, plane in status["planes"].items()} == dict.fromkeys(
        ["flashblocks", "engine", "debug", "fanout", "admin"], "running"
    )
    assert status["flashlog"]["head"] > 0
    for name in (
        'rpc_blocks_created{source="builder"}',
        "flashblocks_service_messages_processed",
        "flashblocks_ws_inbound_connection_status",
        "websocket_proxy_active_connections",
        "rollup_boost_execution_mode 3.0",
        "flashblocks_landed_total",
        "process_resident_memory_bytes",
    ):
        assert name in metrics, name
    assert shown.returncode == 0
    assert "running" in shown.stdout
    assert "flashblocks" in shown.stdout


def test_status_without_an_appliance_is_one_clear_line() -> None:
    done = appliance("status", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("appliance: no appliance answers at http://127.0.0.1:9: ")


async def test_tail_after_a_place_that_is_not_held_says_so_and_which_is(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1))
    files = HostFiles(tmp_path, devnet)
    async with started(nursery, devnet), running(files.write) as host:
        await devnet.start_node(f"http://{host.addresses['engine']}", files.secret)
        await host.wait_for_event("payload landed")
        stream = f"ws://{host.addresses['fanout']}/ws"
        done = await trio.to_thread.run_sync(appliance, "tail", "--url", stream, "--after", "1:0")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"appliance: {stream}: block 1 index 0 is before")
    assert "the oldest held is block" in line
    assert line.endswith("(HTTP 410)")


async def test_tail_follows_the_stream_across_a_kill_9(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1))
    lasting = {plane: {"listen": f"127.0.0.1:{lasting_port()}"} for plane in ("fanout", "engine")}
    files = HostFiles(tmp_path, devnet, lasting)
    async with started(nursery, devnet):
        async with running(files.write) as host:
            await devnet.start_node(f"http://{host.addresses['engine']}", files.secret)
            await host.wait_for_event("returning block")
            stream = f"ws://{host.addresses['fanout']}/ws"
            tail = await trio.lowlevel.open_process(
                [sys.executable, "-m", "appliance", "tail", "--url", stream, "--count", "25", "--raw"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert tail.stdout is not None
            with trio.fail_after(60):
                output = await tail.stdout.receive_some()  # a first connection that fails would be an error
            host.kill()
            await host.process.wait()
        async with running(files.write):
            with trio.fail_after(60):
                async for chunk in tail.stdout:
                    output += chunk
                assert tail.stderr is not None
                told = b"".join([chunk async for chunk in tail.stderr])
                assert await tail.wait() == 0, told.decode()
    seen = list(map(json.loads, output.splitlines()))
    assert len(seen) == 25
    keys = [(each["payload_id"], each["index"]) for each in seen]
    assert len(set(keys)) == 25
    assert all(index == 0 or before == (payload, index - 1) for before, (payload, index) in itertools.pairwise(keys))
    # The block that the kill interrupted may be built again, as another payload.
    numbers = [each["metadata"]["block_number"] for each in seen]
    assert numbers == sorted(numbers)
