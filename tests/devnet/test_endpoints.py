import stat
from pathlib import Path

import pytest

from appliance.devnet.endpoints import secret_in
from appliance.domain.errors import ConfigError
from appliance.wire import jwt


def test_secret_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    path, secret = secret_in(tmp_path / "new", "el")
    assert secret_in(tmp_path / "new", "el") == (path, secret)
    assert jwt.load_secret(path) == secret
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret_in(tmp_path / "new", "builder-1")[1] != secret


def test_damaged_secret_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "el.jwt").write_text("short")
    with pytest.raises(ConfigError, match=r"el\.jwt"):
        secret_in(tmp_path, "el")
