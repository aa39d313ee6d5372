"""Secret files that everybody can read."""

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.config.loader import loads
from appliance.config.model import Config
from appliance.exposed_secrets import exposed, secret_files, warn

EVERYTHING = """
[engine]
jwt_secret_file = "engine"
l2 = { url = "http://el:8551", jwt_secret_file = "el" }
builder_listen = { listen = "127.0.0.1:1", jwt_secret_file = "pool" }
[[engine.builders]]
name = "alpha"
url = "http://b:1"
jwt_secret_file = "alpha"
[replication]
host_id = "a"
secret_file = "shared"
tls_cert_file = "cert"
tls_key_file = "key"
[[replication.peers]]
host_id = "b"
url = "wss://b:1"
[fanout]
[[fanout.api_keys]]
app = "one"
key_file = "keys"
[admin]
token_file = "token"
"""
FILES = {
    "engine.jwt_secret_file": "engine",
    "engine.l2.jwt_secret_file": "el",
    "engine.builder_listen.jwt_secret_file": "pool",
    "engine.builders[0].jwt_secret_file": "alpha",
    "replication.secret_file": "shared",
    "replication.tls_key_file": "key",
    "fanout.api_keys[0].key_file": "keys",
    "admin.token_file": "token",
}


def config_in(folder: Path, mode: int) -> Config:
    for name in FILES.values():
        (folder / name).write_text("x")
        (folder / name).chmod(mode)
    return loads(EVERYTHING, folder=folder)


def test_every_key_of_a_secret_is_known_and_a_certificate_is_none(tmp_path: Path) -> None:
    found = dict(secret_files(config_in(tmp_path, 0o600)))
    assert found == {key: str(tmp_path / name) for key, name in FILES.items()}


def test_every_key_of_the_model_that_is_a_secrets_file_is_looked_at(tmp_path: Path) -> None:
    named = {key.rpartition(".")[2] for key in FILES}
    sample = (Path(__file__).parents[1] / "appliance" / "config" / "sample.toml").read_text()
    keys = set(re.findall(r"^(?:# )?(\w+_file) = ", sample, re.MULTILINE))
    assert keys - {"tls_cert_file", "tls_ca_file"} == named


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o660])
def test_owner_and_group_are_nobody_else(tmp_path: Path, mode: int) -> None:
    assert exposed(config_in(tmp_path, mode)) == []


def test_what_everybody_can_read_is_named_with_its_mode(tmp_path: Path) -> None:
    config = config_in(tmp_path, 0o644)
    found = exposed(config)
    assert [each.key for each in found] == list(FILES)
    assert str(found[-1]) == f"admin.token_file: everybody can read {tmp_path}/token (mode 644); 600 or 640 is enough"
    with capture_logs() as lines:
        warn(config)
    assert [(line["key"], line["mode"]) for line in lines] == [(key, "644") for key in FILES]


def test_a_file_that_is_not_there_is_for_those_who_read_it(tmp_path: Path) -> None:
    config = config_in(tmp_path, 0o644)
    (tmp_path / "token").unlink()
    assert "admin.token_file" not in [each.key for each in exposed(config)]


def test_without_sections_there_are_no_secrets() -> None:
    assert exposed(Config()) == []
