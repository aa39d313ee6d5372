"""What check-config finds in the files that a configuration names."""

from pathlib import Path

import pytest

from appliance.cli.file_checks import check_files, check_folder
from appliance.config.loader import loads
from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from tests.support.unprivileged import run_unprivileged

TLS = Path(__file__).parents[1] / "net" / "tls"


def replicating(folder: Path, cert: Path = TLS / "certificate.pem") -> Config:
    text = f"""
[store]
folder = "data"
[replication]
host_id = "a"
secret_file = "shared"
tls_cert_file = "{cert}"
tls_key_file = "{TLS / "key.pem"}"
[[replication.peers]]
host_id = "b"
url = "wss://b:1"
"""
    return loads(text, folder=folder)


def problems(config: Config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    return str(caught.value).splitlines()


def test_files_that_are_well_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("ab" * 32)
    check_files(replicating(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]  # the folder is made by a start


def test_all_that_is_wrong_is_said_at_once_each_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert problems(replicating(tmp_path, cert=tmp_path / "missing.pem")) == [
        f"replication.secret_file: secret file {tmp_path}/shared: No such file or directory",
        f"replication.tls_cert_file: {tmp_path}/missing.pem: No such file or directory",
        f"store.folder: {tmp_path}/data is not a folder",
    ]


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = loads('[store]\nfolder = "file/below/it"\n[fanout]\n', folder=tmp_path)
    assert problems(config) == [f"store.folder: {tmp_path}/file is not a folder"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_where_nothing_can_be_made_is_said(tmp_path: Path) -> None:
    config = loads('[store]\nfolder = "/proc/nope"\n[fanout]\n', folder=tmp_path)
    (problem,) = problems(config)
    assert problem.startswith("store.folder: /proc/nope: nothing can be written to /proc: ")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_only_who_keeps_a_log_cannot_start_without_its_folder(tmp_path: Path) -> None:
    folder = '[store]\nfolder = "/proc/nope"\n'
    with pytest.raises(ConfigError, match=r"store\.folder"):
        check_folder(loads(folder + "[fanout]\n", folder=tmp_path))
    check_folder(loads(folder + "[lb]\n", folder=tmp_path))


def test_a_folder_that_is_not_there_yet_is_well(tmp_path: Path) -> None:
    check_files(loads('[store]\nfolder = "not/there/yet"\n[fanout]\n', folder=tmp_path))


PROVIDERS = """
[[providers]]
name = "l1"
listen = "127.0.0.1:0"
[[providers.endpoints]]
name = "a"
url = "http://a"
"""


def written(tmp_path: Path, name: str, folder: str, sections: str) -> Path:
    path = tmp_path / name
    path.write_text(f'[store]\nfolder = "{folder}"\n{sections}')
    return path


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_a_start_may_not_enter_is_named(tmp_path: Path, mode: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    files = [
        written(tmp_path, "fanout.toml", "data", "[fanout]\n"),
        written(tmp_path, "lb.toml", "data", "[lb]\n"),
        written(tmp_path, "below.toml", "data/below/it", "[fanout]\n"),
        written(tmp_path, "providers.toml", "data", PROVIDERS),  # it opens nothing there
    ]
    data.chmod(mode)
    *refused, well = run_unprivileged(*(("check-config", str(file)) for file in files))
    data.chmod(0o755)
    assert [(outcome.code, outcome.err) for outcome in refused] == [
        (2, f"appliance: store.folder: {data}: Permission denied\n"),
        (2, f"appliance: store.folder: {data}: Permission denied\n"),
        (2, f"appliance: store.folder: {data}/below/it: Permission denied\n"),
    ]
    assert (well.code, well.err) == (0, "")


def test_a_folder_in_which_a_start_may_make_no_files_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    fanout, lb = (written(tmp_path, f"{name}.toml", "data/below", f"[{name}]\n") for name in ("fanout", "lb"))
    data.chmod(0o555)
    refused, well = run_unprivileged(["check-config", fanout], ["check-config", lb])
    data.chmod(0o755)
    assert (refused.code, refused.err) == (2, f"appliance: store.folder: this user may not read and write {data}\n")
    assert (well.code, well.err) == (0, "")  # added nodes cannot be kept then, but the load balancer starts


@pytest.mark.parametrize(
    ("name", "sections"), [("flashlog.lock", "[fanout]\n"), ("flashlog.db", "[fanout]\n"), ("state.db", "[lb]\n")]
)
def test_a_file_that_only_root_may_write_is_named(tmp_path: Path, name: str, sections: str) -> None:
    path, file = written(tmp_path, "a.toml", ".", sections), tmp_path / name
    file.touch()
    file.chmod(0o440)
    (outcome,) = run_unprivileged(["check-config", path])
    assert (outcome.code, outcome.err) == (2, f"appliance: store.folder: this user may not read and write {file}\n")
