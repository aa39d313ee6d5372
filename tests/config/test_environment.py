"""prio-load-balancer's environment: it wins over the file, and a bad value in it is named."""

from pathlib import Path

import pytest

from appliance.config.environment import names_by_key
from appliance.config.loader import InvalidConfigError, load, loads
from appliance.config.model import LbConfig

FOLDER = Path("/etc")


def lb(environ: dict[str, str], text: str = "[lb]") -> LbConfig:
    config = loads(text, folder=FOLDER, environ=environ)
    assert config.lb is not None
    return config.lb


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("LISTEN_ADDR", "localhost:9000", "listen", "localhost:9000"),
        ("LISTEN_ADDR", ":8080", "listen", "0.0.0.0:8080"),
        ("NUM_NODE_WORKERS", "16", "workers", 16),
        ("RETRIES_MAX", "5", "tries", 5),
        ("ITEMS_FASTTRACK_PER_HIGHPRIO", "4", "fast_track_per_high", 4),
        ("FASTTRACK_DRAIN_FIRST", "1", "fast_track_drain_first", True),
        ("FASTTRACK_DRAIN_FIRST", "0", "fast_track_drain_first", False),
        ("FASTTRACK_DRAIN_FIRST", "", "fast_track_drain_first", False),
        ("ITEMS_FASTTRACK_MAX", "10", "max_fast_track", 10),
        ("ITEMS_HIGHPRIO_MAX", "11", "max_high", 11),
        ("ITEMS_LOWPRIO_MAX", " 12 ", "max_low", 12),
        ("PAYLOAD_MAX_KB", "2048", "payload_max_kb", 2048),
        ("REQUEST_TIMEOUT", "7", "queue_timeout_ms", 7000),
        ("JOB_SEND_TIMEOUT", "1", "handover_timeout_ms", 1000),
        ("REQUEST_PROXY_TIMEOUT", "10", "proxy_timeout_ms", 10_000),
    ],
)
def test_a_variable_wins_over_the_file(name: str, value: str, key: str, expected: object) -> None:
    assert getattr(lb({name: value}, "[lb]\ntries = 9\nmax_low = 1\nfast_track_drain_first = true"), key) == expected


def test_defaults_are_the_originals() -> None:
    config = lb({})
    assert (config.listen, config.workers, config.tries) == ("127.0.0.1:8080", 8, 3)
    assert (config.fast_track_per_high, config.fast_track_drain_first) == (2, False)
    assert (config.max_fast_track, config.max_high, config.max_low) == (0, 0, 0)
    assert (config.queue_timeout_ms, config.handover_timeout_ms, config.proxy_timeout_ms) == (5000, 2000, 3000)
    assert (config.payload_max_kb, config.check_method) == (8192, "net_version")


@pytest.mark.parametrize("value", ["0", "601", "", "-1"])
def test_a_time_is_named_in_the_variables_own_unit(value: str) -> None:
    if not value:
        assert lb({"REQUEST_TIMEOUT": value}).queue_timeout_ms == 5000
        return
    with pytest.raises(InvalidConfigError) as caught:
        lb({"REQUEST_TIMEOUT": value})
    expected = "expected a whole number of seconds from 1 to 600"
    assert str(caught.value) == f'environment variable REQUEST_TIMEOUT: found "{value}", {expected}'


def test_an_empty_variable_is_none() -> None:
    names = ("LISTEN_ADDR", "NUM_NODE_WORKERS", "RETRIES_MAX", "PAYLOAD_MAX_KB", "ITEMS_LOWPRIO_MAX", "BACKENDS")
    environ = {name: " " if name == "RETRIES_MAX" else "" for name in names}
    assert lb(environ, "[lb]\ntries = 9") == lb({}, "[lb]\ntries = 9")
    assert names_by_key(environ) == {}
    assert names_by_key({"FASTTRACK_DRAIN_FIRST": ""}) == {"fast_track_drain_first": "FASTTRACK_DRAIN_FIRST"}


def test_nodes_and_backends_stand_instead_of_the_files() -> None:
    file = '[lb]\n[[lb.nodes]]\nurl = "http://file"'
    assert [node.url for node in lb({}, file).nodes] == ["http://file"]
    found = lb({"NODES": "http://a, http://b?_workers=3", "BACKENDS": "http://c,"}, file)
    assert [node.url for node in found.nodes] == ["http://a", "http://b?_workers=3", "http://c"]
    assert [node.url for node in lb({"NODES": ""}, file).nodes] == ["http://file"]


def test_without_the_section_nothing_is_looked_at() -> None:
    config = loads("[fanout]", folder=FOLDER, environ={"LISTEN_ADDR": "nonsense", "RETRIES_MAX": "x"})
    assert config.lb is None
    assert config.fanout is not None
    assert config.fanout.listen == "127.0.0.1:1112"


def test_every_bad_value_is_named_with_its_variable() -> None:
    environ = {
        "RETRIES_MAX": "many",
        "REQUEST_TIMEOUT": "1.5",
        "FASTTRACK_DRAIN_FIRST": "yes",
        "NUM_NODE_WORKERS": "0",
        "LISTEN_ADDR": "8080",
        "NODES": "ftp://a",
    }
    hidden = "a text of 7 characters that is not shown"
    a_node = 'a node\'s URL as "http://host:port" or "https://host:port"'
    with pytest.raises(InvalidConfigError) as caught:
        lb(environ)
    assert sorted(str(caught.value).splitlines()) == [
        'environment variable FASTTRACK_DRAIN_FIRST: found "yes", expected "1" or "0"',
        'environment variable LISTEN_ADDR (lb.listen): found "8080", expected an address as "host:port"',
        f"environment variable NODES (lb.nodes[0].url): found {hidden}, expected {a_node}",
        "environment variable NUM_NODE_WORKERS (lb.workers): found 0, expected a whole number from 1 to 4096",
        'environment variable REQUEST_TIMEOUT: found "1.5", expected a whole number of seconds from 1 to 600',
        'environment variable RETRIES_MAX: found "many", expected a whole number',
    ]


def test_a_file_is_loaded_with_the_processs_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[lb]")
    monkeypatch.setenv("RETRIES_MAX", "2")
    config = load(path)
    assert config.lb is not None
    assert config.lb.tries == 2
