"""Who may subscribe: API keys, each of an app with a limit of its own. Pure.

A key is compared as its SHA-256 with every key that is configured, and to the end: how long an answer takes says
nothing about how much of a key was right, or which one. Only digests are kept, and no repr shows one.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from appliance.domain.errors import ConfigError

MIN_KEY_CHARACTERS: Final = 16
MAX_KEY_CHARACTERS: Final = 128
# What stands in a URL's path as it is (RFC 3986, 2.3): no proxy or client will write it another way.
_KEY: Final = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_KEY_CHARACTERS},{MAX_KEY_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class App:
    """Who a key belongs to. All of its keys are valid, so that one can be replaced by another without a gap."""

    name: str
    max_subscribers: int
    digests: frozenset[bytes] = field(repr=False)

    @classmethod
    def create(cls, name: str, keys: Iterable[str], max_subscribers: int) -> "App":
        """An app with its keys in the clear, which are forgotten."""
        return cls(name, max_subscribers, frozenset(map(_digest, keys)))


@dataclass(frozen=True, slots=True)
class Grant:
    """A key that was found valid: the app that it belongs to, and which of its keys it was."""

    app: str
    digest: bytes = field(repr=False)


class ApiKeys:
    """The keys of all apps. Without any, everybody is let in."""

    def __init__(self, apps: Sequence[App] = (), *, public: bool = False) -> None:
        """With ``public`` those without a key are let in beside the apps. App names and keys differ (config)."""
        self._apps = {app.name: app for app in apps}
        self._grants = [Grant(app.name, digest) for app in apps for digest in sorted(app.digests)]
        self._by_digest = {grant.digest: grant for grant in self._grants}  # each reload asks for every subscriber
        self._public = public

    def __repr__(self) -> str:
        return f"<ApiKeys of {', '.join(self._apps) or 'nobody'}>"

    @property
    def configured(self) -> bool:
        """Whether there is any key at all."""
        return bool(self._grants)

    @property
    def open(self) -> bool:
        """Whether those without a key are let in."""
        return self._public or not self._grants

    @property
    def names(self) -> tuple[str, ...]:
        """The apps that have keys."""
        return tuple(self._apps)

    def find(self, key: str) -> Grant | None:
        """Whose key this is; None when it is nobody's."""
        digest = _digest(key)
        found = None
        for grant in self._grants:
            if hmac.compare_digest(grant.digest, digest):
                found = grant
        return found

    def limit(self, grant: Grant) -> int:
        """How many subscribers the app may have; 0 for one that has gone."""
        app = self._apps.get(grant.app)
        return app.max_subscribers if app else 0

    def holds(self, grant: Grant | None) -> bool:
        """Whether a subscriber that came in with this may stay; None is one that came without a key."""
        return self.open if grant is None else grant.digest in self._by_digest

    def owner(self, grant: Grant) -> Grant:
        """The grant of the same key as it is now: its app may have another name. Only for one that `holds`."""
        return self._by_digest[grant.digest]


def parse_key_file(text: str) -> tuple[str, ...]:
    """The keys of an app's file, one on each line; empty lines and lines that begin with # are passed over.

    Raises ConfigError, which names the line and never what is in it.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for number, line in keys:
        if not _KEY.fullmatch(line):
            length = f"{MIN_KEY_CHARACTERS} to {MAX_KEY_CHARACTERS}"
            raise ConfigError(f"line {number}: expected a key of {length} letters, digits and -._~")
    if not keys:
        raise ConfigError("expected a key on a line, found none")
    return tuple(line for _, line in keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
