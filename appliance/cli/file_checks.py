"""What `appliance check-config` does with the files that a configuration names: open them, as `run` would."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from appliance.replication.settings import replication_settings
from appliance.secrets import Secrets


def check_files(config: Config) -> None:
    """Raises ConfigError with a line for each file that is no use, the keys in front; changes nothing."""
    problems: list[str] = []
    for check in (Secrets.load, _certificates, _folder):
        problems += _lines_of(check, config)
    if problems:
        raise ConfigError("\n".join(problems))


def _lines_of(check: Callable[[Config], object], config: Config) -> Iterator[str]:
    try:
        check(config)
    except ConfigError as error:
        yield from str(error).splitlines()


def _certificates(config: Config) -> None:
    tls = replication_settings(config.replication, b"").tls if config.replication is not None else None
    if tls is not None:
        tls.for_listening()
        tls.for_connecting()


def _folder(config: Config) -> None:
    """It may be missing: then it is made. Something else in its place, or above it, is in the way."""
    folder = Path(config.store.folder)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"store.folder: {there} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except PermissionError:
        return  # whoever checks the file may not be who runs the appliance
    except OSError as error:
        raise ConfigError(f"store.folder: nothing can be written to {there}: {error.strerror}") from error
