"""Who may connect to a host's log."""

import ssl
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
    "files", [TlsFiles("/missing.pem", KEY), TlsFiles(CERT, CERT), TlsFiles(CERT, KEY, "/missing-ca.pem")]
)
def test_files_that_are_no_use_are_one_clear_line(files: TlsFiles) -> None:
    for make in (files.for_listening, files.for_connecting):
        with pytest.raises(ConfigError, match=r"^replication: TLS files .*pem.*: \S") as caught:
            make()
        assert "\n" not in str(caught.value)
