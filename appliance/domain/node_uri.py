"""A node's URI: what it says, whether its form is right, and how it may be shown. Pure.

    http://host:8545/path?key=1&_workers=16      `_workers` is for us; the rest is where requests go
    https://SEV_<measurements>@host              Constellation aTLS: base64url of gzip of JSON measurements
    https://SGX_<MRENCLAVE>@host                 Gramine RA-TLS: 32 bytes as hex

The names of the schemes are found whatever their case: taken as a user's name, the node would be used without a proof.
Credentials, paths and queries may be secrets (an API key is often a path), and measurements are long: what is shown
has scheme, host and port, and a digest of the rest, so that two nodes can be told apart.
"""

import base64
import binascii
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from appliance.domain.errors import ConfigError

MAX_URI_CHARS: Final = 16_384
MAX_WORKERS: Final = 4096
_MAX_MEASUREMENTS_BYTES: Final = 65_536
_SCHEMES: Final = ("SEV", "SGX")
_UNKNOWN_SCHEMES: Final = ("TDX",)
"""Names that claim an attestation whose form is not known here."""
VERIFIABLE: Final[frozenset[str]] = frozenset()
"""Those of them whose evidence this build can verify (lb/attestation.py): none yet."""
_ADDRESS: Final = re.compile(r"^[!-~]+$")
_REGISTER: Final = re.compile(r"^[0-9]{1,2}$")
_SHA256_HEX: Final = re.compile(r"^[0-9A-Fa-f]{64}$")


class NodeUriError(ConfigError):
    """A URI that is none of a node: ``where`` is the part of it ("" for the whole), ``expected`` what fits there.

    It never repeats the URI.
    """

    def __init__(self, expected: str, where: str = "") -> None:
        super().__init__(f"node URI: {where + ': ' if where else ''}expected {expected}")
        self.expected = expected
        self.where = where


@dataclass(frozen=True, slots=True)
class Claim:
    """What an attested node has to prove: ``scheme`` SEV or SGX, and what its evidence is compared with.

    ``expected`` is for SGX the MRENCLAVE, 32 bytes; for SEV the JSON object of measurements, as bytes.
    """

    scheme: str
    expected: bytes


@dataclass(frozen=True, slots=True, repr=False)
class NodeUri:
    """One node. ``url`` is where requests go, ``shown`` what people and logs see; without a repr that tells more."""

    url: str
    shown: str
    workers: int | None
    claim: Claim | None

    def __repr__(self) -> str:
        return f"<NodeUri {self.shown}>"


def parse_node_uri(text: str) -> NodeUri:
    """Raises `NodeUriError`, one line, for a URI whose form is wrong."""
    if len(text) > MAX_URI_CHARS or not _ADDRESS.match(text):
        raise NodeUriError(f"printable ASCII without spaces, at most {MAX_URI_CHARS} characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise NodeUriError("a host and, if any, a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https"):
        raise NodeUriError("http://host:port or https://host:port")
    if not parts.hostname or port == 0:
        raise NodeUriError("a host and, if any, a port from 1 to 65535")
    query, workers = _without_workers(parts.query)
    scheme = _attested_by(parts.netloc)
    claim = _claim(scheme, parts.username or "", secure=parts.scheme == "https") if scheme else None
    path = "" if parts.path == "/" else parts.path
    url = urlunsplit((parts.scheme, scheme + parts.netloc[len(scheme) :], path, query, ""))
    return NodeUri(url, _shown(url), workers, claim)


def _without_workers(query: str) -> tuple[str, int | None]:
    if "_workers" not in query:
        return query, None
    fields = parse_qsl(query, keep_blank_values=True)
    given = [value for name, value in fields if name == "_workers"]
    if not given:
        return query, None
    last = given[-1]
    if not last.isascii() or not last.isdigit() or not 1 <= int(last[:9]) <= MAX_WORKERS or len(last) > 9:
        raise NodeUriError(f"a whole number from 1 to {MAX_WORKERS}", "_workers")
    return urlencode([field for field in fields if field[0] != "_workers"]), int(last)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    authority = parts.netloc.rpartition("@")[2]
    who = ""
    if "@" in parts.netloc:
        scheme = _attested_by(parts.netloc)
        who = f"{scheme}_…@" if scheme else "…@"
    plain = f"{parts.scheme}://{who}{authority}"
    if not who and not parts.path and not parts.query:
        return plain
    return f"{plain}/…{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _attested_by(netloc: str) -> str:
    """The scheme that ``netloc`` names as its user, in capitals; "" for none."""
    user, _, _ = netloc.rpartition("@")
    name, underscore, _ = user.partition("_")
    return name.upper() if underscore and name.upper() in (*_SCHEMES, *_UNKNOWN_SCHEMES) else ""


def _claim(scheme: str, user: str, *, secure: bool) -> Claim:
    if scheme in _UNKNOWN_SCHEMES:
        raise NodeUriError(
            f"{' or '.join(f'{name}_' for name in _SCHEMES)}, what else is attested is not known", user[:4]
        )
    evidence = user.partition("_")[2]
    if not secure:
        raise NodeUriError("https://: it is attested over TLS", f"{scheme}_")
    return Claim(scheme, _mrenclave(evidence) if scheme == "SGX" else _measurements(evidence))


def _mrenclave(evidence: str) -> bytes:
    if not _SHA256_HEX.match(evidence):
        raise NodeUriError("the MRENCLAVE as 64 hex digits", "SGX_")
    return bytes.fromhex(evidence)


def _measurements(evidence: str) -> bytes:
    try:
        packed = base64.b64decode(evidence + "=" * (-len(evidence) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise NodeUriError("measurements in base64url", "SEV_") from None
    text = _gunzip(packed)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NodeUriError("a JSON object of measurements inside the gzip", "SEV_") from None
    _check_measurements(found)
    return text


def _gunzip(packed: bytes) -> bytes:
    """Within a bound: a few hundred bytes of gzip can hold gigabytes."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(packed, _MAX_MEASUREMENTS_BYTES)
    except zlib.error:
        raise NodeUriError("gzip inside the base64url", "SEV_") from None
    if not unpacker.eof:
        raise NodeUriError(f"whole gzip of at most {_MAX_MEASUREMENTS_BYTES} bytes", "SEV_")
    return text


def _check_measurements(found: Any) -> None:
    """Register -> {"expected": 32 bytes as hex, "warnOnly": true or false}, as Constellation writes them."""
    if not isinstance(found, dict) or not found:
        raise NodeUriError("a JSON object with at least one measurement", "SEV_")
    for register, measurement in found.items():
        if not _REGISTER.match(register) or not isinstance(measurement, dict):
            raise NodeUriError("registers 0 to 99, each with an object", "SEV_")
        expected, warn_only = measurement.get("expected"), measurement.get("warnOnly", False)
        if not isinstance(expected, str) or not _SHA256_HEX.match(expected) or not isinstance(warn_only, bool):
            raise NodeUriError("64 hex digits in `expected`, a boolean in `warnOnly`", f"SEV_: register {register}")
