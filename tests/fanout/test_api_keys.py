"""Whose key it is."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import ConfigError
from appliance.fanout import api_keys
from appliance.fanout.api_keys import ApiKeys, App, Grant, parse_key_file

ALPHA, BETA, OLD = "alpha-key-0123456789", "beta-key-0123456789", "old-key-01234567890"


def two_apps(*, public: bool = False) -> ApiKeys:
    return ApiKeys([App.create("alpha", [ALPHA, OLD], 5), App.create("beta", [BETA], 7)], public=public)


def found(keys: ApiKeys, key: str) -> Grant:
    grant = keys.find(key)
    assert grant is not None
    return grant


def test_a_key_belongs_to_its_app_and_has_its_limit() -> None:
    keys = two_apps()
    assert [found(keys, key).app for key in (ALPHA, OLD, BETA)] == ["alpha", "alpha", "beta"]
    assert [keys.limit(found(keys, key)) for key in (ALPHA, OLD, BETA)] == [5, 5, 7]
    assert keys.names == ("alpha", "beta")


@pytest.mark.parametrize("key", ["", ALPHA[:-1], ALPHA + "x", ALPHA.upper(), "alpha", "\udcff", "é" * 20])
def test_anything_else_is_nobodys(key: str) -> None:
    assert two_apps().find(key) is None


@given(st.text(max_size=30))
def test_only_the_key_itself_is_found(key: str) -> None:
    assert (two_apps().find(key) is not None) == (key in {ALPHA, BETA, OLD})


def test_every_key_is_compared_to_the_end_whatever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append(first)
        return hmac.compare_digest(first, second)

    class Spy:
        compare_digest = staticmethod(compare)

    keys = two_apps()
    monkeypatch.setattr(api_keys, "hmac", Spy)
    for key in (ALPHA, BETA, "nobody's"):
        compared.clear()
        keys.find(key)
        assert len(set(compared)) == 3


def test_without_keys_everybody_is_let_in() -> None:
    assert ApiKeys().open
    assert not ApiKeys().configured
    assert not two_apps().open
    assert two_apps(public=True).open


def test_who_may_stay_when_the_keys_have_changed() -> None:
    before, after = two_apps(), ApiKeys([App.create("alpha", [ALPHA], 5)])
    assert after.holds(found(before, ALPHA))
    assert not after.holds(found(before, OLD))
    assert not after.holds(found(before, BETA))
    assert not after.holds(None)
    assert ApiKeys().holds(None)
    assert after.limit(found(before, BETA)) == 0


def test_a_key_whose_app_has_another_name_goes_on_and_is_that_apps() -> None:
    before, after = two_apps(), ApiKeys([App.create("renamed", [ALPHA], 5), App.create("beta", [BETA], 5)])
    assert after.holds(found(before, ALPHA))
    assert after.owner(found(before, ALPHA)) == found(after, ALPHA)
    assert after.owner(found(before, ALPHA)).app == "renamed"
    assert not after.holds(found(before, OLD))


def test_no_repr_shows_a_key_or_its_digest() -> None:
    keys = two_apps()
    app, grant = App.create("alpha", [ALPHA], 5), found(keys, ALPHA)
    for shown in (repr(keys), repr(app), repr(grant)):
        assert ALPHA not in shown
        assert repr(grant.digest) not in shown
        assert "alpha" in shown


def test_a_key_file_has_a_key_on_each_line() -> None:
    assert parse_key_file(f"# rotated in May\n{ALPHA}\n\n  {BETA}  \r\n") == (ALPHA, BETA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a key on a line, found none"),
        ("# nothing\n", "expected a key on a line, found none"),
        (f"{ALPHA}\nshort\n", "line 2: expected a key of 16 to 128 letters, digits and -._~"),
        (f"{'x' * 129}\n", "line 1: expected a key of 16 to 128 letters, digits and -._~"),
        ("has/a/slash/in/it/0123456789\n", "line 1: expected a key of 16 to 128 letters, digits and -._~"),
    ],
)
def test_a_bad_key_file_is_said_by_its_line_and_not_its_content(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_key_file(text)
    assert str(caught.value) == message
