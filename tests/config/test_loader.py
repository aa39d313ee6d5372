from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.loader import InvalidConfigError, load, loads
from appliance.domain.errors import ConfigError

BAD = Path(__file__).parent / "bad"
MINIMAL = """
[engine]
jwt_secret_file = "secrets/op-node.jwt"
l2 = { url = "http://127.0.0.1:8551", jwt_secret_file = "/etc/el.jwt" }
"""


@pytest.mark.parametrize("path", sorted(BAD.glob("*.toml")), ids=lambda path: path.stem)
def test_every_error_is_reported_with_path_found_and_expected(path: Path) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(path)
    assert str(caught.value) == path.with_suffix(".txt").read_text().rstrip("\n")


def test_a_minimal_file_gives_one_plane_and_the_defaults(tmp_path: Path) -> None:
    config = loads(MINIMAL, folder=tmp_path)
    assert config.engine is not None
    assert config.engine.listen == "127.0.0.1:8081"
    assert config.engine.l2 is not None
    assert config.engine.l2.timeout_ms == 1000
    assert config.engine.builders == ()
    assert config.fanout is None
    assert config.admin is None
    assert config.store.folder == "/var/lib/appliance"


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    config = loads(MINIMAL, folder=tmp_path)
    assert config.engine is not None
    assert config.engine.jwt_secret_file == str(tmp_path / "secrets/op-node.jwt")
    assert config.engine.l2 is not None
    assert config.engine.l2.jwt_secret_file == "/etc/el.jwt"


def test_a_whole_number_serves_where_seconds_may_be_broken(tmp_path: Path) -> None:
    config = loads('[fanout]\nping_interval_s = 2\npong_timeout_s = 0.5\nproxies = ["10.0.0.0/8"]', folder=tmp_path)
    assert config.fanout is not None
    assert (config.fanout.ping_interval_s, config.fanout.pong_timeout_s) == (2, 0.5)
    assert config.fanout.proxies == ("10.0.0.0/8",)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^.*missing\.toml: cannot be read: No such file or directory$"):
        load(tmp_path / "missing.toml")


def test_a_file_that_is_not_toml_is_one_clear_line_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[engine\n")
    with pytest.raises(ConfigError, match=r"not TOML: .*line 1"):
        load(path)


def test_a_file_that_is_not_text_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read: not UTF-8 text"):
        load(path)


_values = st.recursive(
    st.one_of(
        st.integers(-5, 99999),
        st.booleans(),
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(section=st.sampled_from(["store", "engine", "fanout", "admin", "log", "flashlog"]), value=_values)
def test_any_value_for_a_section_is_an_error_of_that_section(section: str, value: object) -> None:
    text = f"{section} = {_toml(value)}\n"
    with pytest.raises(InvalidConfigError) as caught:
        loads(text, folder=Path("/"))
    assert caught.value.problems[0].path == section


@given(key=st.sampled_from(["listen", "max_lag", "proxies", "ping_interval_s", "ip_header"]), value=_values)
def test_any_value_for_a_key_loads_or_is_an_error_of_that_key(key: str, value: object) -> None:
    try:
        loads(f"[fanout]\n{key} = {_toml(value)}\n", folder=Path("/"))
    except InvalidConfigError as error:
        assert all(problem.path.startswith(f"fanout.{key}") for problem in error.problems)  # noqa: PT017


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08X}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
    if isinstance(value, float) and "inf" not in str(value) and "." not in str(value):
        return f"{value:.1f}"
    return str(value)


def test_a_builder_listener_alone_needs_no_execution_client(tmp_path: Path) -> None:
    text = """
[engine.builder_listen]
listen = "0.0.0.0:8651"
jwt_secret_file = "pool.jwt"
[[engine.builders]]
name = "alpha"
url = "http://10.0.0.10:8551"
jwt_secret_file = "alpha.jwt"
flashblocks_url = "ws://10.0.0.10:1111"
[flashblocks]
validation = "structural"
"""
    config = loads(text, folder=tmp_path)
    assert config.engine is not None
    assert config.engine.l2 is None
    assert config.engine.builder_listen is not None
    assert config.engine.builder_listen.jwt_secret_file == str(tmp_path / "pool.jwt")
