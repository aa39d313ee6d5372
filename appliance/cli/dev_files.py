"""The files of `appliance dev --hosts N`: for each host a configuration that `appliance run` takes as it is."""

import json
import random
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.devnet.endpoints import Endpoint

LOOPBACK: Final = "127.0.0.1"
_REPLICATION, _FANOUT, _ADMIN, _ENGINE, _DEBUG = 8750, 1112, 9090, 8081, 5555
_BELOW_OUTGOING: Final = (10_000, 32_000)
"""Ports that the kernel gives to nobody by itself: a host must find its own again after a restart."""
_RANDOM: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """What the first host's engine needs: op-node's secret, the execution client, the builders."""

    secret_file: Path
    el: Endpoint
    builders: Sequence[Endpoint]
    health_check_interval_s: float


@dataclass(frozen=True, slots=True)
class LocalHost:
    """A host on this machine: its folder and where it listens. Only the first one has an engine."""

    name: str
    folder: Path
    address: str
    replication: int
    fanout: int
    admin: int
    engine: int | None = None
    debug: int | None = None

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "appliance.toml"

    @property
    def log_file(self) -> Path:
        """Where its log lines go."""
        return self.folder / "appliance.log"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it listens on."""
        ports = (self.engine, self.debug, self.fanout, self.admin, self.replication)
        return tuple(f"{self.address}:{port}" for port in ports if port is not None)

    @property
    def replication_url(self) -> str:
        """Where its peers connect."""
        return f"ws://{self.address}:{self.replication}"

    @property
    def stream_url(self) -> str:
        """Where its subscribers connect."""
        return f"ws://{self.address}:{self.fanout}/ws"

    @property
    def admin_url(self) -> str:
        """Where its status is."""
        return f"http://{self.address}:{self.admin}"


def plan(folder: Path, count: int, *, any_port: bool = False) -> tuple[LocalHost, ...]:
    """``count`` hosts with neighbouring ports, or with free ones on a loopback address that nobody else has."""
    address = _own_address() if any_port else LOOPBACK
    chosen: set[int] = set()  # nobody listens on them yet, so that a second look would find them free again

    def port(usual: int) -> int:
        if not any_port:
            return usual
        chosen.add(free := _free_port(address, chosen))
        return free

    return tuple(_host(folder, index, address, port) for index in range(count))


def _host(folder: Path, index: int, address: str, port: Callable[[int], int]) -> LocalHost:
    return LocalHost(
        name=f"host-{index}",
        folder=folder / f"host-{index}",
        address=address,
        replication=port(_REPLICATION + index),
        fanout=port(_FANOUT + index),
        admin=port(_ADMIN + index),
        engine=None if index else port(_ENGINE),
        debug=None if index else port(_DEBUG),
    )


def _own_address() -> str:
    """Between the choice of a port and its use somebody else may take it: not so on an address of one's own.

    Linux has all of 127.0.0.0/8; elsewhere it is the usual address.
    """
    address = f"127.{_RANDOM.randrange(1, 255)}.{_RANDOM.randrange(255)}.{_RANDOM.randrange(1, 255)}"
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return LOOPBACK
    return address


def _free_port(address: str, but: Collection[int]) -> int:
    while True:
        port = _RANDOM.randrange(*_BELOW_OUTGOING)
        if port in but:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port


def write_files(hosts: Sequence[LocalHost], engine: EngineFiles) -> None:
    """Write each host's file, and the secret that they share unless it is there already."""
    secret = hosts[0].folder.parent / "replication.secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32) + "\n")
    for host in hosts:
        host.folder.mkdir(exist_ok=True)
        peers = {each.name: each.replication_url for each in hosts if each is not host}
        host.config.write_text(_HEAD.format(host=host, count=len(hosts)) + config_text(host, peers, engine))


def config_text(host: LocalHost, peers: Mapping[str, str], engine: EngineFiles | None) -> str:
    """The file of one host, ``peers`` by name and URL. It reads as an operator would write it."""
    parts = [_COMMON.format(host=host)]
    parts += [_PEER.format(name=name, url=url) for name, url in peers.items()]
    if host.engine is not None and engine is not None:
        parts += _engine_parts(host, engine)
    return "\n".join(parts)


def _engine_parts(host: LocalHost, engine: EngineFiles) -> Iterator[str]:
    yield _ENGINE_TEXT.format(host=host, interval=engine.health_check_interval_s) + _secret(engine.secret_file)
    yield f"[engine.l2]\nurl = {json.dumps(engine.el.url)}\n" + _secret(engine.el.secret_file)
    for builder in engine.builders:
        urls = f"url = {json.dumps(builder.url)}\nflashblocks_url = {json.dumps(builder.flashblocks_url)}\n"
        yield f'[[engine.builders]]\nname = "{builder.name}"\n' + urls + _secret(builder.secret_file)
    yield "[flashblocks]\n"


def _secret(path: Path) -> str:
    return f"jwt_secret_file = {json.dumps(str(path))}\n"


_HEAD: Final = """\
# {host.name} of the {count} hosts of `appliance dev --hosts {count}`, which writes this file anew at each start.

"""

_COMMON: Final = """\
[store]
folder = "data"

[fanout]
listen = "{host.address}:{host.fanout}"

[admin]
listen = "{host.address}:{host.admin}"

[replication]
host_id = "{host.name}"
listen = "{host.address}:{host.replication}"
secret_file = "../replication.secret"
"""

_PEER: Final = """\
[[replication.peers]]
host_id = "{name}"
url = "{url}"
"""

_ENGINE_TEXT: Final = """\
[engine]
listen = "{host.address}:{host.engine}"
debug_listen = "{host.address}:{host.debug}"
health_check_interval_s = {interval:g}
"""
