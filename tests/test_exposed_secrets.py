"""Secret files that everybody can read."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.config.loader import loads
from appliance.config.model import Config
from appliance.exposed_secrets import exposed, warn
from tests.config.test_secret_files import EVERYTHING, FILES


def config_in(folder: Path, mode: int) -> Config:
    for name in FILES.values():
        (folder / name).write_text("x")
        (folder / name).chmod(mode)
    return loads(EVERYTHING, folder=folder)


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
