"""The shipped sample is a test: it loads, and what it says of the defaults is true."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from appliance.config.loader import loads
from appliance.config.model import Config

SAMPLE = (files("appliance.config") / "sample.toml").read_text()
_COMMENTED_KEY = re.compile(r"^# ([a-z0-9_]+ = .*)$", re.MULTILINE)


def test_the_sample_loads_as_it_is() -> None:
    config = loads(SAMPLE, folder=Path("/etc/appliance"))
    assert config.engine is not None
    assert [builder.name for builder in config.engine.builders] == ["builder-0"]


def test_the_sample_loads_with_every_comment_taken_off_and_its_defaults_are_true() -> None:
    plain = _with_defaults(loads(SAMPLE, folder=Path("/")))
    commented_in = _COMMENTED_KEY.sub(r"\1", SAMPLE)
    for without_default in (
        'token_file = "/etc/appliance/admin.token"\n',
        "min_gas_share = 0.1\n",
        "min_acks = 1\n",
        "chain_id = 1\n",
        'tls_cert_file = "/etc/appliance/replication.pem"\n',
        'tls_key_file = "/etc/appliance/replication.key"\n',
        'tls_ca_file = "/etc/appliance/replication-ca.pem"\n',
    ):
        commented_in = commented_in.replace(without_default, "")
    assert _with_defaults(loads(commented_in, folder=Path("/"))) == plain


def test_the_sample_names_every_key() -> None:
    table = tomllib.loads(_COMMENTED_KEY.sub(r"\1", SAMPLE))
    assert _missing(Config, table) == []


def _with_defaults(config: Config) -> dict[str, Any]:
    result = msgspec.to_builtins(config)
    assert isinstance(result, dict)
    return result


def _missing(struct: type[msgspec.Struct], table: dict[str, Any], prefix: str = "") -> list[str]:
    missing = []
    for field in msgspec.structs.fields(struct):
        path = f"{prefix}{field.encode_name}"
        if field.encode_name not in table:
            missing.append(path)
            continue
        value = table[field.encode_name]
        inner = next((t for t in [field.type, *getattr(field.type, "__args__", ())] if _is_struct(t)), None)
        if inner is not None:
            missing += _missing(inner, value[0] if isinstance(value, list) else value, f"{path}.")
    return missing


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
