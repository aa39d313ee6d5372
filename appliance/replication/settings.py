"""The section [replication], as the plane takes it."""

from dataclasses import dataclass, field

from appliance.config.model import ReplicationConfig
from appliance.replication.security import TlsFiles


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host: its name, and where it listens (ws:// or wss://)."""

    host_id: str
    url: str


@dataclass(frozen=True, slots=True)
class ReplicationSettings:
    """The section [replication]. ``min_acks`` None is so many that a majority of the voters has a flashblock.

    Where too few voters are followed for ``reach_grace_s``, that is a fact of health: a peer that was restarted is
    dialled again within 2 s.
    """

    host_id: str
    secret: bytes = field(repr=False)
    peers: tuple[Peer, ...]
    min_acks: int | None = None
    timeout_s: float = 2.0
    publish_on_timeout: bool = False
    follow_only: bool = False
    tls: TlsFiles | None = None
    reach_grace_s: float = 3.0

    @property
    def voters(self) -> frozenset[str]:
        """All who vote, this host among them unless it is a learner."""
        peers = {peer.host_id for peer in self.peers}
        return frozenset(peers if self.follow_only else peers | {self.host_id})

    @property
    def majority(self) -> int:
        """So many voters that any two such sets share one."""
        return len(self.voters) // 2 + 1

    @property
    def quorum(self) -> int:
        """How many voters must have an entry, this host counted."""
        return self.majority if self.min_acks is None else self.min_acks + 1


def replication_settings(config: ReplicationConfig, secret: bytes) -> ReplicationSettings:
    """From the configuration, whose rules hold."""
    cert, key = config.tls_cert_file, config.tls_key_file
    return ReplicationSettings(
        host_id=config.host_id,
        secret=secret,
        peers=tuple(Peer(peer.host_id, peer.url) for peer in config.peers),
        min_acks=config.min_acks,
        timeout_s=config.timeout_ms / 1000,
        publish_on_timeout=config.on_timeout == "publish",
        follow_only=config.follow_only,
        tls=TlsFiles(cert, key, config.tls_ca_file) if cert and key else None,
    )
