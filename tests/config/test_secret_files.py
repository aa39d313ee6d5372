"""The table of the files that secrets are in."""

import re
from pathlib import Path

import pytest

from appliance.config.loader import loads
from appliance.config.model import Config
from appliance.config.secret_files import secret_files
from appliance.domain.errors import ConfigError
from appliance.secrets import Secrets

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


def test_every_key_of_a_secret_is_known_and_a_certificate_is_none(tmp_path: Path) -> None:
    found = secret_files(loads(EVERYTHING, folder=tmp_path))
    assert found == {key: str(tmp_path / name) for key, name in FILES.items()}


def test_every_key_of_the_model_that_is_a_secrets_file_is_looked_at() -> None:
    named = {key.rpartition(".")[2] for key in FILES}
    sample = (Path(__file__).parents[2] / "appliance" / "config" / "sample.toml").read_text()
    keys = set(re.findall(r"^(?:# )?(\w+_file) = ", sample, re.MULTILINE))
    assert keys - {"tls_cert_file", "tls_ca_file"} == named


def test_every_file_of_the_table_is_read_at_the_start(tmp_path: Path) -> None:
    """But for the key of a certificate, which belongs to TLS."""
    with pytest.raises(ConfigError) as caught:
        Secrets.load(loads(EVERYTHING, folder=tmp_path))
    read = {line.partition(": ")[0] for line in str(caught.value).splitlines()}
    assert read == FILES.keys() - {"replication.tls_key_file"}


def test_a_builder_listener_alone_has_no_secret_of_an_engine(tmp_path: Path) -> None:
    text = """
[engine.builder_listen]
listen = "127.0.0.1:1"
jwt_secret_file = "pool"
[[engine.builders]]
name = "alpha"
url = "http://b:1"
jwt_secret_file = "alpha"
"""
    found = secret_files(loads(text, folder=tmp_path))
    assert found == {
        "engine.builder_listen.jwt_secret_file": str(tmp_path / "pool"),
        "engine.builders[0].jwt_secret_file": str(tmp_path / "alpha"),
    }


def test_without_sections_there_are_none() -> None:
    assert secret_files(Config()) == {}
