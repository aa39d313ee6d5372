"""Every secret that a configuration names, read at once; all that cannot be read are reported together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from appliance.config.model import Config
from appliance.config.secret_files import secret_files
from appliance.domain.errors import ConfigError
from appliance.fanout.api_keys import App, parse_key_file
from appliance.wire.jwt import load_secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """JWT secrets (32 bytes each), the admin token, fan-out's apps. Without a repr: it must not reach a log."""

    engine: bytes
    el: bytes
    builder_listen: bytes
    builders: tuple[bytes, ...]
    replication: bytes
    admin_token: str | None
    apps: tuple[App, ...] = ()

    @classmethod
    def load(cls, config: Config) -> "Secrets":
        """Read the files. Raises ConfigError with one line for each that cannot be read, its key in front."""
        files, problems = secret_files(config), list[str]()

        def read(key: str, how: Callable[[str], T], empty: T) -> T:
            try:
                return how(files[key]) if key in files else empty
            except ConfigError as error:
                problems.append(f"{key}: {error}")
                return empty

        secrets = cls(
            engine=read("engine.jwt_secret_file", load_secret, b""),
            el=read("engine.l2.jwt_secret_file", load_secret, b""),
            builder_listen=read("engine.builder_listen.jwt_secret_file", load_secret, b""),
            builders=tuple(
                read(f"engine.builders[{index}].jwt_secret_file", load_secret, b"")
                for index in range(len(config.engine.builders) if config.engine else 0)
            ),
            apps=_load_apps(config, files, problems),
            replication=read("replication.secret_file", load_secret, b""),
            admin_token=read("admin.token_file", _load_token, "") or None,
        )
        if problems:
            raise ConfigError("\n".join(problems))
        return secrets


def _load_apps(config: Config, files: Mapping[str, str], problems: list[str]) -> tuple[App, ...]:
    """The apps with their keys. A key that two of them have would let one of them in as the other."""
    apps: list[App] = []
    for index, entry in enumerate(config.fanout.api_keys if config.fanout else ()):
        key = f"fanout.api_keys[{index}].key_file"
        try:
            app = App.create(entry.app, _load_keys(files[key]), entry.max_subscribers)
        except ConfigError as error:
            problems.append(f"{key}: {error}")
            continue
        same = [other.name for other in apps if other.digests & app.digests]
        if same:
            problems.append(f"{key}: key file {files[key]}: the app {same[0]} has one of these keys too")
        apps.append(app)
    return tuple(apps)


def _load_keys(path: str) -> tuple[str, ...]:
    try:
        return parse_key_file(Path(path).read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"key file {path}: expected ASCII text") from error
    except ConfigError as error:
        raise ConfigError(f"key file {path}: {error}") from error


def _load_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"token file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"token file {path}: expected ASCII text") from error
    if len(token) < 16:
        raise ConfigError(f"token file {path}: expected at least 16 characters, found {len(token)}")
    return token
