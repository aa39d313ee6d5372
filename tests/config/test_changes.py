"""What differs between two files, and what of it is taken over."""

from pathlib import Path

import pytest

from appliance.config.changes import RELOADABLE, changed_keys, take_over
from appliance.config.loader import loads
from appliance.config.model import Config, FanoutConfig, LbConfig, LbNodeConfig

BASE = """
[engine]
jwt_secret_file = "a.jwt"
l2 = { url = "http://127.0.0.1:8551", jwt_secret_file = "el.jwt" }
[fanout]
max_per_ip = 5
"""


def config(text: str) -> Config:
    return loads(text, folder=Path("/"))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (BASE, BASE, []),
        (BASE, BASE.replace("5", "6"), ["engine.l2.url", "fanout.max_per_ip"]),
        (BASE, BASE + "[admin]\n", ["admin"]),
        (BASE + "[log]\nlevel = 'info'\n", BASE, []),
        (BASE, BASE + "[log]\nlevel = 'debug'\n", ["log.level"]),
        (BASE, BASE + '[[fanout.api_keys]]\napp = "a"\nkey_file = "a.keys"\n', ["fanout.api_keys"]),
        (
            BASE,
            BASE + '[[engine.builders]]\nname = "a"\nurl = "http://b"\njwt_secret_file = "b"\n',
            ["engine.builders"],
        ),
    ],
)
def test_each_key_that_differs_is_named(old: str, new: str, changed: list[str]) -> None:
    assert changed_keys(config(old.replace("8551", "855")), config(new.replace("8551", "855"))) == changed
    assert changed_keys(config(old), config(old)) == []


def test_keys_and_limits_are_taken_over_and_nothing_else() -> None:
    old = config(BASE)
    new = config('[fanout]\nlisten = "0.0.0.0:1"\nmax_lag = 7\nmax_per_ip = 9\nmax_subscribers = 8\n')
    both = take_over(old, new)
    assert both.engine == old.engine
    assert both.fanout == FanoutConfig(max_per_ip=9, max_subscribers=8)
    assert changed_keys(both, new) == ["engine", "fanout.listen", "fanout.max_lag"]
    assert take_over(both, new) == both


def test_the_nodes_of_the_load_balancer_are_taken_over_and_nothing_else_of_it() -> None:
    old, new = config("[lb]\ntries = 3\n"), config('[lb]\ntries = 4\n[[lb.nodes]]\nurl = "http://a"\n')
    both = take_over(old, new)
    assert both.lb == LbConfig(nodes=(LbNodeConfig(url="http://a"),))
    assert changed_keys(old, both) == ["lb.nodes"]
    assert changed_keys(both, new) == ["lb.tries"]
    assert take_over(old, config("[fanout]")) == old


def test_a_plane_neither_comes_nor_goes() -> None:
    with_fanout, without = config(BASE), config(BASE.replace("[fanout]\nmax_per_ip = 5\n", ""))
    assert take_over(with_fanout, without) == with_fanout
    assert take_over(without, with_fanout) == without


def test_what_can_be_reloaded_is_there() -> None:
    assert set(FanoutConfig.__struct_fields__) >= RELOADABLE
