"""What check-config finds in the files that a configuration names."""

from pathlib import Path

import pytest

from appliance.cli.file_checks import check_files
from appliance.config.loader import loads
from appliance.config.model import Config
from appliance.domain.errors import ConfigError

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
    assert problem.startswith("store.folder: nothing can be written to /proc: ")


def test_a_folder_that_is_not_there_yet_is_well(tmp_path: Path) -> None:
    check_files(loads('[store]\nfolder = "not/there/yet"\n[fanout]\n', folder=tmp_path))
