"""Who may connect: a shared secret in every handshake, and certificates on both sides where they are configured."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(filter(None, (self.cert, self.key, self.ca)))
            raise ConfigError(f"replication: TLS files {files}: {error.strerror or error}") from None
        return context


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
