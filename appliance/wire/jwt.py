"""JWT as the Engine API uses it: HS256 over a 32-byte secret, and the claim `iat` close to now.

Source: execution-apis, src/engine/authentication.md. All other claims are ignored, `exp` and `nbf` too.
"""

from functools import lru_cache
from pathlib import Path
from typing import Final

import jwt
from jwt.types import Options

from appliance.domain.errors import ConfigError, RemoteError

MAX_DRIFT_S: Final = 60
"""How far `iat` may be from the receiver's clock, either way, in seconds."""

_SECRET_BYTES: Final = 32
_CHECK_ONLY_SIGNATURE: Final[Options] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,  # checked below, against the `now` that is passed in
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Unauthorized(RemoteError):
    """The request carries no token that we accept (HTTP 401); the text is the reason."""


def load_secret(path: str | Path) -> bytes:
    """The 32 bytes in a secret file: 64 hex digits, with or without 0x, white space around them ignored.

    Raises `ConfigError`, one line that names the file and never shows its content.
    """
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"secret file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"secret file {path}: expected 64 hex digits, found other bytes") from None
    return _parse_secret(text.removeprefix("0x"), path)


def _parse_secret(digits: str, path: str | Path) -> bytes:
    if len(digits) != 2 * _SECRET_BYTES:
        raise ConfigError(f"secret file {path}: expected 64 hex digits, found {len(digits)} characters")
    if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise ConfigError(f"secret file {path}: expected 64 hex digits, found other characters")
    return bytes.fromhex(digits)


def sign(secret: bytes, now: float) -> str:
    """A token issued at ``now`` (Unix seconds, rounded down, so never in the future)."""
    return _sign_second(secret, int(now))


@lru_cache(maxsize=64)  # one entry per upstream and second; an older second is not asked for again
def _sign_second(secret: bytes, issued_at: int) -> str:
    return jwt.encode({"iat": issued_at}, secret, algorithm="HS256")


def verify(secret: bytes, header_value: str | None, now: float) -> None:
    """Accept the value of an `Authorization` header, or raise `Unauthorized`; ``now`` is Unix seconds."""
    if header_value is None:
        raise Unauthorized("no Authorization header")
    scheme, _, token = header_value.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("the Authorization header is not a Bearer token")
    _check_time(_issued_at(secret, token.strip()), now)


@lru_cache(maxsize=64)  # a client signs once per second at most; only tokens that passed are kept
def _issued_at(secret: bytes, token: str) -> float:
    try:
        claims = jwt.decode(token, secret, algorithms=["HS256"], options=_CHECK_ONLY_SIGNATURE)
    except jwt.InvalidSignatureError:
        raise Unauthorized("the token was signed with another secret") from None
    except (jwt.InvalidTokenError, RecursionError) as error:
        # RecursionError: a header of thousands of nested JSON arrays, which anyone may send.
        raise Unauthorized(f"the token is not valid: {error}") from None
    issued_at = claims.get("iat")
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        raise Unauthorized("the token has no numeric claim iat")
    return issued_at


def _check_time(issued_at: float, now: float) -> None:
    # Written so that NaN fails, and as comparisons only: an integer of any size compares without overflow.
    if not now - MAX_DRIFT_S <= issued_at <= now + MAX_DRIFT_S:
        shown = str(issued_at)[:20]
        raise Unauthorized(f"iat {shown} is more than {MAX_DRIFT_S} s from our clock {int(now)}")
