"""Secret files that everybody on the host can read: said, not refused, because some mounts cannot do better."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.config.model import Config
from appliance.telemetry.logging import get_logger

log = get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file by the key that names it; ``mode`` in octal digits."""

    key: str
    path: str
    mode: str

    def __str__(self) -> str:
        return f"{self.key}: everybody can read {self.path} (mode {self.mode}); 600 or 640 is enough"


def exposed(config: Config) -> list[Exposed]:
    """All of them. What cannot be looked at is not named: reading it says why."""
    found = []
    for key, path in secret_files(config):
        try:
            mode = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError:
            continue
        if mode & stat.S_IROTH:
            found.append(Exposed(key, path, f"{mode:03o}"))
    return found


def warn(config: Config) -> None:
    """A log line for each."""
    for each in exposed(config):
        log.warning("a secret file can be read by everybody", key=each.key, file=each.path, mode=each.mode)


def secret_files(config: Config) -> Iterator[tuple[str, str]]:
    """Every file of a secret that a configuration names, with its key in front."""
    yield from _engine_files(config)
    if config.replication is not None:
        yield "replication.secret_file", config.replication.secret_file
        if config.replication.tls_key_file is not None:
            yield "replication.tls_key_file", config.replication.tls_key_file
    for index, app in enumerate(config.fanout.api_keys if config.fanout else ()):
        yield f"fanout.api_keys[{index}].key_file", app.key_file
    if config.admin is not None and config.admin.token_file is not None:
        yield "admin.token_file", config.admin.token_file


def _engine_files(config: Config) -> Iterator[tuple[str, str]]:
    engine = config.engine
    if engine is None:
        return
    if engine.l2 is not None:
        yield "engine.jwt_secret_file", engine.jwt_secret_file
        yield "engine.l2.jwt_secret_file", engine.l2.jwt_secret_file
    if engine.builder_listen is not None:
        yield "engine.builder_listen.jwt_secret_file", engine.builder_listen.jwt_secret_file
    for index, builder in enumerate(engine.builders):
        yield f"engine.builders[{index}].jwt_secret_file", builder.jwt_secret_file
