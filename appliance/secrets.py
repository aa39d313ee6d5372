"""Every secret that a configuration names, read at once; all that cannot be read are reported together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from appliance.config.model import Config
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
        problems: list[str] = []

        def read(key: str, path: str | None, how: Callable[[str], T], empty: T) -> T:
            try:
                return empty if path is None else how(path)
            except ConfigError as error:
                problems.append(f"{key}: {error}")
                return empty

        engine, admin, replication = config.engine, config.admin, config.replication
        l2, pool = (engine.l2, engine.builder_listen) if engine else (None, None)
        secrets = cls(
            engine=read("engine.jwt_secret_file", engine.jwt_secret_file if l2 and engine else None, load_secret, b""),
            el=read("engine.l2.jwt_secret_file", l2.jwt_secret_file if l2 else None, load_secret, b""),
            builder_listen=read(
                "engine.builder_listen.jwt_secret_file", pool.jwt_secret_file if pool else None, load_secret, b""
            ),
            builders=tuple(
                read(f"engine.builders[{index}].jwt_secret_file", builder.jwt_secret_file, load_secret, b"")
                for index, builder in enumerate(engine.builders if engine else ())
            ),
            apps=_load_apps(config, problems),
            replication=read(
                "replication.secret_file", replication.secret_file if replication else None, load_secret, b""
            ),
            admin_token=read("admin.token_file", admin.token_file if admin else None, _load_token, "") or None,
        )
        if problems:
            raise ConfigError("\n".join(problems))
        return secrets


def _load_apps(config: Config, problems: list[str]) -> tuple[App, ...]:
    """The apps with their keys. A key that two of them have would let one of them in as the other."""
    apps: list[App] = []
    for index, entry in enumerate(config.fanout.api_keys if config.fanout else ()):
        key = f"fanout.api_keys[{index}].key_file"
        try:
            app = App.create(entry.app, _load_keys(entry.key_file), entry.max_subscribers)
        except ConfigError as error:
            problems.append(f"{key}: {error}")
            continue
        same = [other.name for other in apps if other.digests & app.digests]
        if same:
            problems.append(f"{key}: key file {entry.key_file}: the app {same[0]} has one of these keys too")
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
