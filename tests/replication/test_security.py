"""Who may connect to a host's log."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from appliance.domain.errors import ConfigError
from appliance.net.duplex import Refusal
from appliance.replication.security import TARGET, TlsFiles, authorization, authorizer

SECRET, OTHER = b"\x01" * 32, b"\x02" * 32
FILES = Path(__file__).parents[1] / "net" / "tls"
CERT, KEY = str(FILES / "certificate.pem"), str(FILES / "key.pem")


def test_who_signs_with_the_secret_now_is_taken() -> None:
    judge = authorizer(SECRET, lambda: 1000.0)
    assert judge(TARGET, authorization(SECRET, lambda: 1000.0)) is None
    assert judge(f"{TARGET}?x=1", authorization(SECRET, lambda: 941.0)) is None


@pytest.mark.parametrize(
    ("target", "headers", "status", "text"),
    [
        (TARGET, {}, 401, "no Authorization header"),
        (TARGET, {"authorization": "Basic eHg6eQ=="}, 401, "not a Bearer token"),
        (TARGET, authorization(OTHER, lambda: 1000.0), 401, "another secret"),
        (TARGET, authorization(SECRET, lambda: 939.0), 401, "more than 60 s from our clock"),
        (TARGET, authorization(SECRET, lambda: 1061.0), 401, "more than 60 s from our clock"),
        ("/", authorization(SECRET, lambda: 1000.0), 404, "there is only /replication"),
    ],
)
def test_who_does_not_is_refused_with_the_reason(target: str, headers: dict[str, str], status: int, text: str) -> None:
    refusal = authorizer(SECRET, lambda: 1000.0)(target, headers)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    assert text in refusal.text


def test_with_an_authority_both_sides_ask_for_certificates() -> None:
    files = TlsFiles(CERT, KEY, CERT)
    assert files.for_listening().verify_mode is ssl.CERT_REQUIRED
    assert files.for_connecting().verify_mode is ssl.CERT_REQUIRED
    assert len(files.for_connecting().get_ca_certs()) == 1  # and not the system's
    assert files.for_connecting().check_hostname


def test_without_one_only_the_listener_shows_a_certificate() -> None:
    files = TlsFiles(CERT, KEY)
    assert files.for_listening().verify_mode is ssl.CERT_NONE
    assert files.for_connecting().verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (TlsFiles("/missing.pem", KEY), "tls_cert_file: /missing.pem: No such file or directory"),
        (TlsFiles(KEY, KEY), f"tls_cert_file: {KEY}: expected a certificate in PEM"),
        (TlsFiles(CERT, "/missing.key"), "tls_key_file: /missing.key: No such file or directory"),
        (TlsFiles(CERT, CERT), f"tls_key_file: {CERT}: expected the private key of tls_cert_file in PEM, without"),
        (TlsFiles(CERT, KEY, "/missing-ca.pem"), "tls_ca_file: /missing-ca.pem: No such file or directory"),
        (TlsFiles(CERT, KEY, KEY), f"tls_ca_file: {KEY}: expected an authority's certificate in PEM"),
        (TlsFiles(CERT, KEY, str(FILES)), f"tls_ca_file: {FILES}: Is a directory"),
    ],
)
def test_a_file_that_is_no_use_is_one_clear_line_that_names_its_key(files: TlsFiles, message: str) -> None:
    for make in (files.for_listening, files.for_connecting):
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value).startswith(f"replication.{message}")
        assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_told_from_one_that_is_none(tmp_path: Path) -> None:
    other, encrypted = tmp_path / "other.key", tmp_path / "encrypted.key"
    make_key(other)
    make_key(encrypted, "-aes256", "-pass", "pass:secret")
    with pytest.raises(ConfigError, match=r"tls_key_file: .*other.key: expected the private key of tls_cert_file"):
        TlsFiles(CERT, str(other)).for_listening()
    with pytest.raises(ConfigError, match=r"tls_key_file: .*encrypted.key: expected .*without a password"):
        TlsFiles(CERT, str(encrypted)).for_listening()  # and nobody is asked for one


def make_key(path: Path, *arguments: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the keys")
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-out", str(path), *arguments]
    subprocess.run(command, check=True, capture_output=True)
