"""Key files of fan-out's apps."""

from pathlib import Path

import pytest

from appliance.config.model import ApiKeyConfig, Config, FanoutConfig
from appliance.domain.errors import ConfigError
from appliance.fanout.api_keys import ApiKeys
from appliance.secrets import Secrets

KEY = "some-key-0123456789"


def config_with(folder: Path, **files: bytes | None) -> Config:
    """An app for each file, with the file's name; None is a file that is not there."""
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    keys = tuple(ApiKeyConfig(app=name, key_file=str(folder / name)) for name in files)
    return Config(fanout=FanoutConfig(api_keys=keys))


def test_the_keys_of_each_app_are_read(tmp_path: Path) -> None:
    secrets = Secrets.load(
        config_with(tmp_path, alpha=f"{KEY}\n{KEY}-2\n".encode(), beta=b"# one\nanother-key-0123456789")
    )
    assert [app.name for app in secrets.apps] == ["alpha", "beta"]
    keys = ApiKeys(secrets.apps)
    grant = keys.find(f"{KEY}-2")
    assert grant is not None
    assert (grant.app, keys.limit(grant)) == ("alpha", 1_000)


def test_every_key_file_that_cannot_be_read_is_reported_without_its_content(tmp_path: Path) -> None:
    files = {
        "missing": None,
        "short": b"tiny",
        "empty": b"",
        "binary": b"\xff" * 20,
        "one": KEY.encode(),
        "two": KEY.encode(),
    }
    with pytest.raises(ConfigError) as caught:
        Secrets.load(config_with(tmp_path, **files))
    at = f"key file {tmp_path}"
    assert str(caught.value).splitlines() == [
        f"fanout.api_keys[0].key_file: {at}/missing: No such file or directory",
        f"fanout.api_keys[1].key_file: {at}/short: line 1: expected a key of 16 to 128 letters, digits and -._~",
        f"fanout.api_keys[2].key_file: {at}/empty: expected a key on a line, found none",
        f"fanout.api_keys[3].key_file: {at}/binary: expected ASCII text",
        f"fanout.api_keys[5].key_file: {at}/two: the app one has one of these keys too",
    ]


def test_secrets_have_no_repr(tmp_path: Path) -> None:
    secrets = Secrets.load(config_with(tmp_path, alpha=KEY.encode()))
    assert KEY not in repr(secrets)
    assert KEY not in repr(secrets.apps)
