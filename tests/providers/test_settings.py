"""What is shown of a URL that holds a key: nothing."""

from pathlib import Path

import pytest

from appliance.config.loader import loads
from appliance.providers.configured import group_settings
from appliance.providers.endpoint_health import Thresholds
from appliance.providers.settings import EndpointSettings, GroupSettings

URL = "https://user:pass-word@l1.example.com/v3/0123456789abcdef?token=top-secret"


@pytest.mark.parametrize("secret", ["/v3/0123456789abcdef", "0123456789abcdef", "top-secret", "pass-word"])
def test_an_error_that_repeats_a_secret_is_made_harmless(secret: str) -> None:
    endpoint = EndpointSettings("main", URL)
    assert endpoint.hide(f"project {secret} is over its limit") == "project *** is over its limit"
    assert secret not in repr(endpoint)


def test_words_stay_readable() -> None:
    endpoint = EndpointSettings("main", "https://l1.example.com/v3")
    assert endpoint.hide("v3 of l1.example.com") == "v3 of l1.example.com"


@pytest.mark.parametrize(("scheme", "expected"), [("ws", True), ("wss", True), ("http", False), ("https", False)])
def test_the_scheme_says_how_it_is_reached(scheme: str, expected: bool) -> None:
    assert EndpointSettings("main", f"{scheme}://host").is_websocket is expected


def test_the_defaults_of_the_configuration_are_those_of_the_plane() -> None:
    text = '[[providers]]\nname = "l1"\nlisten = "127.0.0.1:0"\nendpoints = [{ name = "main", url = "http://host" }]\n'
    (config,) = loads(text, folder=Path("/")).providers
    endpoints = (EndpointSettings("main", "http://host"),)
    assert group_settings(config) == GroupSettings(name="l1", endpoints=endpoints, thresholds=Thresholds())
