"""SIGHUP: what a running appliance takes over from its file. A bad one changes nothing; metric and status say so."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Final

import trio
from prometheus_client import CollectorRegistry, Gauge

from appliance import exposed_secrets
from appliance.config.changes import changed_keys, take_over
from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from appliance.fanout.api_keys import App
from appliance.secrets import Secrets
from appliance.telemetry.logging import get_logger

log = get_logger("supervisor")

Apply = Callable[[Config, Secrets], Awaitable[None]]
"""Makes what can be reloaded true in the planes. Called with a configuration and secrets that have been checked."""


_FILES: Final = {
    "engine": "engine.jwt_secret_file",
    "el": "engine.l2.jwt_secret_file",
    "builder_listen": "engine.builder_listen.jwt_secret_file",
    "builders": "engine.builders.jwt_secret_file",
    "replication": "replication.secret_file",
    "admin_token": "admin.token_file",
}
"""The keys that name the files, by the fields of `Secrets`."""


class Reloader:
    """The configuration that holds now, and how its last reload ended."""

    def __init__(self, config: Config, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        """``clock`` is the wall clock in seconds."""
        self.config = config
        self._secrets: Secrets | None = None
        self._clock = clock
        self._error: str | None = None
        self._read_at = 0.0
        self._waiting: list[str] = []
        self._turn = trio.Lock()  # two signals in a row: one after the other
        self._successful = Gauge(
            "appliance_config_last_reload_successful",
            "Whether the configuration file was good when it was last read: 1 or 0",
            registry=registry,
        )
        self._succeeded_at = Gauge(
            "appliance_config_last_reload_success_timestamp_seconds",
            "When a good configuration file was last read",
            registry=registry,
        )

    def started(self, secrets: Secrets) -> None:
        """The start has read the file and the secrets."""
        self._secrets = secrets
        self._note(None)

    async def reload(self, load: Callable[[], Config], apply: Apply) -> bool:
        """Read the file anew and apply what can be; False, with a log line, when it is bad."""
        async with self._turn:
            try:
                # A key file may be a pipe that nobody writes: a stop must not wait for it.
                config = await trio.to_thread.run_sync(load, abandon_on_cancel=True)
                secrets = await trio.to_thread.run_sync(Secrets.load, config, abandon_on_cancel=True)
            except ConfigError as error:
                self._note(str(error))
                log.error("configuration not reloaded, the old one holds", errors=str(error).splitlines())
                return False
            exposed_secrets.warn(config)
            await self._take(config, secrets, apply)
            return True

    async def _take(self, config: Config, secrets: Secrets, apply: Apply) -> None:
        before = self.config
        self.config = take_over(before, config)
        taken = changed_keys(before, self.config)
        if config.fanout is None and self._secrets is not None:
            # Fan-out goes on until a restart, and without its keys it would be open to everybody.
            secrets = replace(secrets, apps=self._secrets.apps)
        if self._secrets is not None:
            taken += _changed_keys(self._secrets.apps, secrets.apps)
            self._secrets = replace(self._secrets, apps=secrets.apps)
        self._waiting = [*changed_keys(self.config, config), *self._changed_secrets(secrets)]
        await apply(self.config, secrets)
        self._note(None)
        if self._waiting:
            log.warning("some changes hold only after a restart", keys=self._waiting)
        log.info("configuration reloaded", changed=taken)

    def _changed_secrets(self, secrets: Secrets) -> list[str]:
        """Secrets whose files have another content now. What an app's key files say is taken over."""
        names = [field.name for field in fields(Secrets) if field.name != "apps"]
        changed = [name for name in names if getattr(secrets, name) != getattr(self._secrets, name)]
        return [f"{_FILES[name]} (content)" for name in changed]

    def _note(self, error: str | None) -> None:
        self._error = error
        self._successful.set(error is None)
        if error is None:
            self._read_at = self._clock()
            self._succeeded_at.set(self._read_at)

    def statistics(self) -> dict[str, object]:
        """For the status: when a good file was read, what is wrong with the present one, what waits for a restart."""
        return {
            "read_at": datetime.fromtimestamp(self._read_at, UTC).isoformat(timespec="seconds"),
            "last_reload_successful": self._error is None,
            "error": self._error,
            "need_restart": list(self._waiting),
        }


def _changed_keys(old: Sequence[App], new: Sequence[App]) -> list[str]:
    """The key files with other keys than before. Apps that came, went or have another name are other entries."""
    before = {app.name: app.digests for app in old}
    return [
        f"fanout.api_keys[{index}].key_file (content)"
        for index, app in enumerate(new)
        if app.digests != before.get(app.name, app.digests)
    ]
