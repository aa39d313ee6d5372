"""Who may connect: a shared secret in every handshake, and certificates on both sides where they are configured."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.domain.errors import ConfigError
from appliance.net.duplex import Authorize, Refusal
from appliance.wire import jwt

TARGET = "/replication"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. With ``ca`` both sides show a certificate that this authority signed."""

    cert: str
    key: str
    ca: str | None = None

    def for_listening(self) -> ssl.SSLContext:
        """The context of the listener. Raises `ConfigError`, one line, for files that are no use."""
        context = self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_connecting(self) -> ssl.SSLContext:
        """The context towards peers: without ``ca`` the system's authorities judge them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is None:
            context.load_default_certs()
        return self._loaded(context)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A certificate file that is none fails as an authority too, and so is told from a key that is not its own.
        _load(
            "tls_cert_file", self.cert, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.cert)
        )
        _load("tls_key_file", self.key, lambda: context.load_cert_chain(self.cert, self.key, _no_password))
        if self.ca is not None:
            _load("tls_ca_file", self.ca, lambda: context.load_verify_locations(self.ca))
        return context


_EXPECTED: Final = {
    "tls_cert_file": "a certificate in PEM",
    "tls_key_file": "the private key of tls_cert_file in PEM, without a password",
    "tls_ca_file": "an authority's certificate in PEM",
}


def _load(key: str, path: str, load: Callable[[], object]) -> None:
    """Raises ConfigError with the key in front. The library's own words for a wrong file are "PEM lib" at best."""
    try:
        with Path(path).open("rb"):
            pass
        load()
    except ssl.SSLError as error:
        reason = f" ({error.reason})" if error.reason else ""
        raise ConfigError(f"replication.{key}: {path}: expected {_EXPECTED[key]}{reason}") from None
    except (OSError, _EncryptedError) as error:
        reason = getattr(error, "strerror", None) or f"expected {_EXPECTED[key]}"
        raise ConfigError(f"replication.{key}: {path}: {reason}") from None


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    """Instead of the library's question on the terminal, which would hold up a start for ever."""
    raise _EncryptedError


def authorization(secret: bytes, clock: Callable[[], float] = time.time) -> dict[str, str]:
    """The header of a handshake: a JWT with `iat`, as for the Engine API."""
    return {"authorization": f"Bearer {jwt.sign(secret, clock())}"}


def authorizer(secret: bytes, clock: Callable[[], float] = time.time) -> Authorize:
    """Takes who signs with ``secret`` and asks for `TARGET`."""

    def judge(target: str, headers: Mapping[str, str]) -> Refusal | None:
        if target.partition("?")[0] != TARGET:
            return Refusal(404, f"there is only {TARGET}")
        try:
            jwt.verify(secret, headers.get("authorization"), clock())
        except jwt.Unauthorized as error:
            return Refusal(401, str(error))
        return None

    return judge
