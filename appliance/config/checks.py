"""Rules between values: what a type cannot say."""

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from appliance.config.model import Config, FanoutConfig, ProvidersConfig
from appliance.config.replication_checks import replication_rules
from appliance.domain.node_uri import VERIFIABLE, NodeUri, NodeUriError, parse_node_uri

Row = tuple[str, str, str]
"""(path, what was found, what is expected)"""


def check(config: Config) -> Iterator[Row]:
    """All broken rules of a configuration whose values are each well formed."""
    yield from _something_runs(config)
    yield from _ports(config)
    yield from _urls(config)
    yield from _listeners_differ(config)
    yield from _builders(config)
    yield from _flashblocks(config)
    yield from _structural(config)
    yield from _proxies(config)
    yield from _api_keys(config)
    yield from _provider_groups(config)
    yield from _lb_nodes(config)
    yield from _lb_sizes(config)
    if config.replication is not None:
        yield from replication_rules(config.replication)


def _something_runs(config: Config) -> Iterator[Row]:
    sections = (config.engine, config.fanout, config.replication, config.lb)
    if all(section is None for section in sections) and not config.providers:
        planes = "[engine], [fanout], [replication], [lb], [[providers]]"
        yield planes, "none of these sections", "at least one: a section that is absent is a plane that does not run"


def _listeners(config: Config) -> Iterator[tuple[str, str]]:
    if config.engine is not None and config.engine.l2 is not None:
        yield "engine.listen", config.engine.listen
        yield "engine.debug_listen", config.engine.debug_listen
    if config.engine is not None and config.engine.builder_listen is not None:
        yield "engine.builder_listen.listen", config.engine.builder_listen.listen
    if config.replication is not None:
        yield "replication.listen", config.replication.listen
    if config.fanout is not None:
        yield "fanout.listen", config.fanout.listen
    for index, group in enumerate(config.providers):
        yield f"providers[{index}].listen", group.listen
    if config.lb is not None:
        yield "lb.listen", config.lb.listen
    if config.admin is not None:
        yield "admin.listen", config.admin.listen


def _ports(config: Config) -> Iterator[Row]:
    for path, address in _listeners(config):
        if int(address.rpartition(":")[2]) > 65_535:
            yield path, f'"{address}"', "a port from 0 to 65535"


def _urls(config: Config) -> Iterator[Row]:
    for path, url in _all_urls(config):
        if not _has_host_and_port(url):
            yield path, f'"{url}"', "a URL with a host and, if any, a port from 1 to 65535"


def _all_urls(config: Config) -> Iterator[tuple[str, str]]:
    for index, peer in enumerate(config.replication.peers if config.replication else ()):
        yield f"replication.peers[{index}].url", peer.url
    if config.engine is None:
        return
    if config.engine.l2 is not None:
        yield "engine.l2.url", config.engine.l2.url
    for index, builder in enumerate(config.engine.builders):
        yield f"engine.builders[{index}].url", builder.url
        if builder.flashblocks_url:
            yield f"engine.builders[{index}].flashblocks_url", builder.flashblocks_url


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _listeners_differ(config: Config) -> Iterator[Row]:
    taken: dict[str, str] = {}
    for path, address in _listeners(config):
        host, _, port = address.rpartition(":")
        others = (other for other in taken if _overlap(host, port, other))
        found = address if address in taken else next(others, None)
        if found is not None and port != "0":
            yield path, f'"{address}"', f"an address of its own: {taken[found]} has {_this(address, found)}"
        taken.setdefault(address, path)


_ANY: Final = "0.0.0.0"  # noqa: S104 - compared with, not bound


def _overlap(host: str, port: str, other: str) -> bool:
    """0.0.0.0 is every IPv4 address of the host: the system refuses the same port on one of them beside it."""
    other_host, _, other_port = other.rpartition(":")
    return port == other_port and _ANY in (host, other_host) and "[" not in host + other_host


def _this(address: str, found: str) -> str:
    return "this one" if found == address else found


def _builders(config: Config) -> Iterator[Row]:
    if config.engine is None:
        return
    names: set[str] = set()
    for index, builder in enumerate(config.engine.builders):
        if builder.name in names:
            yield f"engine.builders[{index}].name", f'"{builder.name}"', "a name that no other builder has"
        names.add(builder.name)
    if config.engine.builder_listen is not None and not names:
        yield "engine.builder_listen", "no builder", "at least one [[engine.builders]]"


def _structural(config: Config) -> Iterator[Row]:
    """Where the local execution client cannot judge a flashblock."""
    engine, flashblocks = config.engine, config.flashblocks
    if engine is None:
        return
    if engine.external_state_root and engine.l2 is None:
        yield "engine.external_state_root", "no section [engine.l2]", "one: its execution client makes the state root"
    if flashblocks is None or flashblocks.validation == "structural":
        return
    expected = '"structural": there is no execution client'
    if engine.l2 is None:
        yield "flashblocks.validation", '"execution"', expected
    elif engine.external_state_root:
        yield "flashblocks.validation", '"execution"', f"{expected} that takes a block without its state root"


def _flashblocks(config: Config) -> Iterator[Row]:
    builders = config.engine.builders if config.engine else ()
    streams = [index for index, builder in enumerate(builders) if builder.flashblocks_url]
    if config.flashblocks is None:
        for index in streams:
            path = f"engine.builders[{index}].flashblocks_url"
            yield path, "no section [flashblocks]", "one beside it: without it no flashblock is read"
    elif config.engine is None:
        yield "flashblocks", "no section [engine]", "one: flashblocks come from the engine's builders"
    elif not streams:
        yield "flashblocks", "no builder with flashblocks_url", "at least one in [[engine.builders]]"


def _proxies(config: Config) -> Iterator[Row]:
    if config.fanout is None:
        return
    if config.fanout.ip_header != FanoutConfig().ip_header and not config.fanout.proxies:
        yield "fanout.ip_header", "no proxies", "at least one address in proxies: from nobody else the header counts"
    for index, network in enumerate(config.fanout.proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            path = f"fanout.proxies[{index}]"
            yield path, f'"{network}"', "an IP address or a network as 10.0.0.0/8, without host bits"


def _provider_groups(config: Config) -> Iterator[Row]:
    names: set[str] = set()
    for index, group in enumerate(config.providers):
        path = f"providers[{index}]"
        if group.name in names:
            yield f"{path}.name", f'"{group.name}"', "a name that no other group has"
        names.add(group.name)
        yield from _endpoints(group, path)
        if group.deadline_ms < group.timeout_ms:
            yield f"{path}.deadline_ms", str(group.deadline_ms), f"at least timeout_ms, {group.timeout_ms}"


def _endpoints(group: ProvidersConfig, path: str) -> Iterator[Row]:
    if not group.endpoints:
        yield f"{path}.endpoints", "no endpoint", "at least one [[providers.endpoints]]"
    names: set[str] = set()
    for index, endpoint in enumerate(group.endpoints):
        where = f"{path}.endpoints[{index}]"
        if endpoint.name in names:
            yield f"{where}.name", f'"{endpoint.name}"', "a name that no other endpoint of the group has"
        names.add(endpoint.name)
        if not _has_host_and_port(endpoint.url):  # not shown: it may hold a key
            yield f"{where}.url", "another one", "a URL with a host and, if any, a port from 1 to 65535"


def _api_keys(config: Config) -> Iterator[Row]:
    if config.fanout is None:
        return
    apps: set[str] = set()
    for index, entry in enumerate(config.fanout.api_keys):
        if entry.app in apps:
            yield f"fanout.api_keys[{index}].app", f'"{entry.app}"', "a name that no other app has"
        apps.add(entry.app)
    if config.fanout.public_access and not apps:
        yield "fanout.public_access", "no API key", "at least one [[fanout.api_keys]]: without one access is public"


def _lb_sizes(config: Config) -> Iterator[Row]:
    if config.lb is not None and config.lb.held_max_mib * 1024 < config.lb.response_max_kb:
        expected = f"at least response_max_kb, {config.lb.response_max_kb}: an answer of that size would never fit"
        yield "lb.held_max_mib", str(config.lb.held_max_mib), expected


def _lb_nodes(config: Config) -> Iterator[Row]:
    taken: set[str] = set()
    for index, node in enumerate(config.lb.nodes if config.lb else ()):
        path = f"lb.nodes[{index}].url"
        try:
            uri = parse_node_uri(node.url)
        except NodeUriError as error:
            yield f"{path}{f' ({error.where})' if error.where else ''}", "a text", error.expected
            continue
        if uri.url in taken:
            yield path, f'"{uri.shown}"', "a node that is not there already"
        taken.add(uri.url)
        yield from _attestation(uri, path)


def _attestation(uri: NodeUri, path: str) -> Iterator[Row]:
    if uri.claim is not None and uri.claim.scheme not in VERIFIABLE:
        why = f"attestation of {uri.claim.scheme} nodes is not available in this build"
        yield path, f'"{uri.shown}"', f"a node that need not be attested: {why}"
