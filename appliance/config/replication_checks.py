"""Rules between the values of [replication]."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from appliance.config.model import ReplicationConfig

Row = tuple[str, str, str]
"""(path, what was found, what is expected)"""


def replication_rules(config: ReplicationConfig) -> Iterator[Row]:
    """Broken rules of a section whose values are each well formed."""
    yield from _peers(config)
    yield from _peer_urls(config)
    yield from _min_acks(config)
    yield from _tls(config)


def _peers(config: ReplicationConfig) -> Iterator[Row]:
    if not config.peers:
        yield "replication", "no peer", "at least one [[replication.peers]]"
    taken = {config.host_id: "replication.host_id"}
    for index, peer in enumerate(config.peers):
        path = f"replication.peers[{index}].host_id"
        if peer.host_id in taken:
            yield path, f'"{peer.host_id}"', f"an id of its own: {taken[peer.host_id]} has this one"
        taken.setdefault(peer.host_id, path)


def _peer_urls(config: ReplicationConfig) -> Iterator[Row]:
    """Two names for one host would take each other's link away, again and again."""
    taken = {config.listen: "replication.listen"}
    for index, peer in enumerate(config.peers):
        path = f"replication.peers[{index}].url"
        superfluous = _superfluous(peer.url)
        if superfluous:  # not shown: a password may be in it
            yield path, superfluous, "a host and a port alone, as ws://host:8750: peers know each other by their secret"
            continue
        where = urlsplit(peer.url).netloc
        if where in taken:
            yield path, f'"{peer.url}"', f"another host's address: {taken[where]} has this one"
        taken.setdefault(where, path)
        if config.tls_cert_file and config.tls_ca_file and not peer.url.startswith("wss:"):
            yield path, f'"{peer.url}"', "a URL with wss: with tls_ca_file all hosts show each other certificates"


def _superfluous(url: str) -> str | None:
    """What a peer's URL has that nobody would look at."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return "a user"
    if parts.query or parts.fragment:
        return "a query"
    return "a path" if parts.path not in ("", "/") else None


def _min_acks(config: ReplicationConfig) -> Iterator[Row]:
    if config.min_acks is None:
        return
    path = "replication.min_acks"
    if config.follow_only:
        yield path, str(config.min_acks), "nothing: with follow_only this host acknowledges nothing that counts"
    elif config.min_acks > len(config.peers):
        yield path, str(config.min_acks), f"at most {len(config.peers)}: there are no more [[replication.peers]]"


def _tls(config: ReplicationConfig) -> Iterator[Row]:
    cert, key = config.tls_cert_file, config.tls_key_file
    if (cert is None) != (key is None):
        missing = "tls_key_file" if key is None else "tls_cert_file"
        yield f"replication.{missing}", "nothing", "a path: tls_cert_file and tls_key_file go together"
    if cert is None and config.tls_ca_file is not None:
        yield "replication.tls_ca_file", "no tls_cert_file", "one beside it: peers ask for this host's certificate too"
