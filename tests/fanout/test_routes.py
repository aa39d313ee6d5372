"""The paths of the stream."""

import pytest

from appliance.fanout.routes import Route, route


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/", "/ws/filter"])
def test_the_stream_without_a_key(path: str) -> None:
    assert route(path) == Route(None)


@pytest.mark.parametrize("path", ["/ws/some-key", "/ws/some-key/filter", "/ws/some%2Dkey"])
def test_the_stream_with_a_key(path: str) -> None:
    assert route(path) == Route("some-key")


@pytest.mark.parametrize(
    "path", ["", "/nothing", "//", "/WS", "*", "ws", "/ws//filter", "/ws/key/", "/ws/key/other", "/ws/filter/filter"]
)
def test_other_paths_do_not_exist(path: str) -> None:
    assert route(path) is None


def test_a_key_is_in_no_repr() -> None:
    assert "some-key" not in repr(route("/ws/some-key"))
