import base64
import hashlib
import hmac
import json
import math
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import ConfigError, RemoteError
from appliance.wire.jwt import Unauthorized, load_secret, sign, verify

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "engine" / "jwt-vectors.json").read_text())
SECRET = bytes(range(32))
NOW = 1_700_000_000.5


def encode(claims: object, header: object = None, secret: bytes = SECRET) -> str:
    """A token made by hand, so that it may hold anything."""
    parts = [header if header is not None else {"alg": "HS256", "typ": "JWT"}, claims]
    texts = [part if isinstance(part, str) else json.dumps(part) for part in parts]
    signed = ".".join(base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") for text in texts)
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def refusal(header_value: str | None, now: float = NOW) -> str:
    with pytest.raises(Unauthorized) as caught:
        verify(SECRET, header_value, now)
    return str(caught.value)


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_tokens_of_other_clients_are_accepted(vector: dict[str, Any]) -> None:
    secret = bytes.fromhex(vector["secret"])

    verify(secret, f"Bearer {vector['token']}", vector["now"])


def test_our_token_says_when_it_was_issued_and_nothing_else() -> None:
    claims = pyjwt.decode(sign(SECRET, NOW), SECRET, algorithms=["HS256"], options={"verify_iat": False})

    assert claims == {"iat": 1_700_000_000}
    assert pyjwt.get_unverified_header(sign(SECRET, NOW)) == {"alg": "HS256", "typ": "JWT"}


def test_a_token_is_fresh_in_each_second_and_never_from_the_future() -> None:
    assert sign(SECRET, 100.0) == sign(SECRET, 100.999)
    assert sign(SECRET, 100.999) != sign(SECRET, 101.0)
    assert sign(SECRET, 100.0) != sign(bytes(32), 100.0)
    verify(SECRET, f"Bearer {sign(SECRET, 100.999)}", 100.0)


@pytest.mark.parametrize("drift_s", [-60, -59.5, 0, 59.5, 60])
def test_a_clock_within_a_minute_is_accepted(drift_s: float) -> None:
    verify(SECRET, f"Bearer {encode({'iat': NOW + drift_s})}", NOW)


@pytest.mark.parametrize("drift_s", [-60.1, 60.1, -3600, 3600])
def test_a_clock_further_away_is_refused_with_the_reason(drift_s: float) -> None:
    assert "more than 60 s from our clock" in refusal(f"Bearer {encode({'iat': NOW + drift_s})}")


def test_a_token_that_was_accepted_once_is_refused_when_it_is_old() -> None:
    header = f"Bearer {sign(SECRET, NOW)}"
    verify(SECRET, header, NOW)

    assert "more than 60 s" in refusal(header, NOW + 61)
    with pytest.raises(Unauthorized, match="another secret"):
        verify(bytes(32), header, NOW)


def test_other_claims_are_ignored() -> None:
    claims = {"iat": NOW, "exp": 1, "nbf": 1e12, "aud": "x", "iss": 5, "sub": [], "jti": {}, "id": "4ac0"}

    verify(SECRET, f"bearer   {encode(claims)} ", NOW)


@pytest.mark.parametrize(
    ("header_value", "reason"),
    [
        (None, "no Authorization header"),
        ("", "not a Bearer token"),
        ("Basic bWU6c2VjcmV0", "not a Bearer token"),
        (sign(SECRET, NOW), "not a Bearer token"),
        ("Bearer", "not valid"),
        ("Bearer a.b.c", "not valid"),
        ("Bearer ü.é.ñ", "not valid"),
        (f"Bearer {sign(bytes(32), NOW)}", "another secret"),
        (f"Bearer {sign(SECRET, NOW)}, Bearer {sign(SECRET, NOW)}", "not valid"),
        (f"Bearer {encode({'iat': NOW}, {'alg': 'none'})}", "not valid"),
        (f"Bearer {encode({'iat': NOW}, {'alg': 'HS512'})}", "not valid"),
        (f"Bearer {encode({'iat': NOW}, {'alg': []})}", "not valid"),
        (f"Bearer {encode({'iat': NOW}, '[' * 20_000)}", "not valid"),
        (f"Bearer {encode({'iat': NOW}, '[]')}", "not valid"),
        (f"Bearer {encode('[]')}", "not valid"),
        (f"Bearer {encode('nonsense')}", "not valid"),
        (f"Bearer {encode({})}", "no numeric claim iat"),
        (f"Bearer {encode({'iat': str(NOW)})}", "no numeric claim iat"),
        (f"Bearer {encode({'iat': None})}", "no numeric claim iat"),
        (f"Bearer {encode({'iat': True})}", "no numeric claim iat"),
        (f"Bearer {encode({'iat': math.nan})}", "more than 60 s"),
        (f"Bearer {encode({'iat': math.inf})}", "more than 60 s"),
        (f"Bearer {encode({'iat': 10**400})}", "more than 60 s"),
        (f"Bearer {encode({'iat': -(10**400)})}", "more than 60 s"),
    ],
)
def test_what_is_no_good_token_is_refused_with_the_reason(header_value: str | None, reason: str) -> None:
    text = refusal(header_value)

    assert reason in text
    assert "\n" not in text
    assert SECRET.hex() not in text


def test_a_refusal_is_the_other_sides_fault() -> None:
    assert issubclass(Unauthorized, RemoteError)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    refusal(text)
    refusal(f"Bearer {text}")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5))
def test_signed_claims_of_any_shape_are_judged_and_nothing_else_happens(value: object) -> None:
    refusal(f"Bearer {encode({'iat': value})}")
    refusal(f"Bearer {encode(json.dumps(value))}")


@given(st.binary(min_size=32, max_size=32), st.floats(0, 4e9), st.floats(-59, 59))
def test_what_we_sign_we_accept_within_the_drift(secret: bytes, now: float, drift_s: float) -> None:
    verify(secret, f"Bearer {sign(secret, now)}", now + drift_s)


# Secret files


@pytest.mark.parametrize("form", ["{}", "0x{}", "{}\n", "0x{}\n", "  {}\r\n"])
def test_a_secret_is_read_in_every_form_that_clients_write(tmp_path: Path, form: str) -> None:
    path = tmp_path / "jwt.hex"
    path.write_text(form.format(SECRET.hex()))

    assert load_secret(path) == SECRET
    assert load_secret(str(path)) == SECRET


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found 0 characters"),
        (b"0x", "found 0 characters"),
        (SECRET.hex().encode()[:-2], "found 62 characters"),
        (SECRET.hex().encode() + b"00", "found 66 characters"),
        (b"secretsecret" * 5 + b"beef", "found other characters"),
        (b"\xff\xfe" * 32, "found other bytes"),
        (b"0x" + b" " * 62 + b"00", "found 66 characters"),
    ],
)
def test_a_file_that_holds_no_secret_is_one_clear_line(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "jwt.hex"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_secret(path)

    text = str(caught.value)
    assert text.startswith(f"secret file {path}: expected 64 hex digits, ")
    assert "\n" not in text
    assert "beef" not in text


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_secret(tmp_path / "missing")

    assert str(caught.value) == f"secret file {tmp_path / 'missing'}: No such file or directory"
    with pytest.raises(ConfigError, match="Is a directory"):
        load_secret(tmp_path)
