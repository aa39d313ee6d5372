"""The configuration as frozen structs. Its names are a contract: other tools write this file.

A section that is absent is a plane that does not run. The `description` of a constrained type is the text
that an operator reads after "expected" when a value does not fit.
"""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Address = Annotated[
    str,
    Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):[0-9]{1,5}$", description='an address as "host:port"'),
]
HttpUrl = Annotated[
    str, Meta(pattern=r"^https?://[!-.0-~][!-~]*$", description='a URL as "http://host:port" or "https://host:port"')
]
WebsocketUrl = Annotated[
    str, Meta(pattern=r"^wss?://[!-.0-~][!-~]*$", description='a URL as "ws://host:port" or "wss://host:port"')
]
EndpointUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?|wss?)://[!-.0-~][!-~]*$",
        description='a URL as "https://host/path" or "wss://host/path"',
        extra={"secret": True},
    ),
]
# The kernel knows no path with a NUL, and Python raises ValueError where everybody expects OSError.
Path = Annotated[str, Meta(pattern=r"^[^\x00]+$", description="a path", extra={"path": True})]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        description="a name of letters, digits, '-', '_' and '.'",
    ),
]
Milliseconds = Annotated[int, Meta(ge=1, le=600_000, description="a whole number of milliseconds from 1 to 600000")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="a number of seconds above 0, at most 86400")]
Count = Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")]
NodeUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://[!-~]+$",
        max_length=16_384,
        description='a node\'s URL as "http://host:port" or "https://host:port"',
        extra={"secret": True},  # it may hold credentials or an API key
    ),
]
Limit = Annotated[int, Meta(ge=0, le=10_000_000, description="a whole number from 0 (none) to 10000000")]
MillisecondsOrOff = Annotated[
    int, Meta(ge=0, le=600_000, description="a whole number of milliseconds from 0 (off) to 600000")
]
KiB = Annotated[int, Meta(ge=1, le=1_048_576, description="a whole number of KiB from 1 to 1048576")]
Workers = Annotated[int, Meta(ge=1, le=4096, description="a whole number from 1 to 4096")]
RatePerSecond = Annotated[
    float, Meta(ge=0, le=1_000_000, description="a number of requests a second from 0 (no limit) to 1000000")
]
ChainId = Annotated[int, Meta(ge=1, le=2**63 - 1, description="a chain's number, from 1")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", description="a header's name")]
IpNetwork = Annotated[str, Meta(min_length=2, description="an IP address or a network as 10.0.0.0/8")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share: frozen, and a key that is not known is an error.

    ``required_unless`` names keys that may be absent only when another one is there.
    """

    required_unless: ClassVar[dict[str, str]] = {}


class StoreConfig(Section, frozen=True, kw_only=True):
    """Where the process keeps its files."""

    folder: Path = "/var/lib/appliance"


class UpstreamConfig(Section, frozen=True, kw_only=True):
    """An Engine API that we call."""

    url: HttpUrl
    jwt_secret_file: Path
    timeout_ms: Milliseconds = 1000


class L2Config(UpstreamConfig, frozen=True, kw_only=True):
    """The local execution client."""


class BuilderConfig(UpstreamConfig, frozen=True, kw_only=True):
    """An external block builder."""

    name: Name
    flashblocks_url: WebsocketUrl | None = None


class BuilderListenConfig(Section, frozen=True, kw_only=True):
    """The builder load balancer: one builder towards other appliances, all of ours behind it."""

    listen: Address
    jwt_secret_file: Path


class EngineConfig(Section, frozen=True, kw_only=True):
    """The Engine API multiplexer: what op-node connects to. Without `l2` it does not run, only `builder_listen`."""

    required_unless: ClassVar[dict[str, str]] = {"l2": "builder_listen", "jwt_secret_file": "builder_listen"}

    l2: L2Config | None = None
    jwt_secret_file: Path = ""
    listen: Address = "127.0.0.1:8081"
    debug_listen: Address = "127.0.0.1:5555"
    execution_mode: Literal["enabled", "dry_run", "disabled"] = "enabled"
    policy: Literal["builder", "gas_used", "max_gas_used", "max_value", "max_transactions"] = "builder"
    min_gas_share: Share | None = None
    builder_deadline_ms: Milliseconds = 1000
    max_unsafe_interval_s: Seconds = 10
    health_check_interval_s: Seconds = 60
    ignore_unhealthy_builders: bool = False
    external_state_root: bool = False
    builder_listen: BuilderListenConfig | None = None
    builders: tuple[BuilderConfig, ...] = ()


class FlashblocksConfig(Section, frozen=True, kw_only=True):
    """Ingest of the builders' flashblocks."""

    validation: Literal["execution", "structural"] = "execution"


class FlashlogConfig(Section, frozen=True, kw_only=True):
    """How much of the flashblock log is kept: whichever bound is reached first."""

    retention_hours: Annotated[float, Meta(gt=0, description="a number of hours above 0")] = 24
    retention_mib: Annotated[int, Meta(ge=1, description="a whole number of MiB from 1")] = 4096


class ApiKeyConfig(Section, frozen=True, kw_only=True):
    """Who may subscribe with a key, and how many times at once."""

    app: Name
    key_file: Path
    max_subscribers: Count = 1_000


class ReplicationPeerConfig(Section, frozen=True, kw_only=True):
    """Another host whose log is followed."""

    host_id: Name
    url: WebsocketUrl


class ReplicationConfig(Section, frozen=True, kw_only=True):
    """Flashblocks on several hosts before anyone is shown them. `peers` are the other voters, for a learner all."""

    host_id: Name
    secret_file: Path
    listen: Address = "127.0.0.1:8750"
    min_acks: Annotated[int, Meta(ge=0, le=64, description="a whole number from 0 to 64")] | None = None
    timeout_ms: Milliseconds = 2000
    on_timeout: Literal["hold", "publish"] = "hold"
    follow_only: bool = False
    retention_wait_hours: Annotated[float, Meta(ge=0, description="a number of hours from 0")] = 24
    retention_wait_mib: Annotated[int, Meta(ge=0, description="a whole number of MiB from 0")] = 4096
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    peers: tuple[ReplicationPeerConfig, ...] = ()


class FanoutConfig(Section, frozen=True, kw_only=True):
    """The websocket server that subscribers connect to."""

    listen: Address = "127.0.0.1:1112"
    max_subscribers: Count = 10_000
    max_per_ip: Count = 1_000
    max_lag: Count = 1_500
    proxies: tuple[IpNetwork, ...] = ()
    ip_header: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", description="a header's name")] = "X-Forwarded-For"
    ping_interval_s: Seconds = 15
    pong_timeout_s: Seconds = 30
    drain_s: Annotated[float, Meta(ge=0, le=60, description="a number of seconds from 0 to 60")] = 5
    public_access: bool = False
    deflate: bool = True
    api_keys: tuple[ApiKeyConfig, ...] = ()


class EndpointConfig(Section, frozen=True, kw_only=True):
    """An endpoint of a provider group. Its URL may hold a key, and is shown to nobody."""

    name: Name
    url: EndpointUrl


class ProvidersConfig(Section, frozen=True, kw_only=True):
    """A provider group: one address in front of an ordered list of JSON-RPC endpoints."""

    name: Name
    listen: Address
    chain_id: ChainId | None = None
    transient_error_threshold: Count = 3
    mempool_drop_threshold: Count = 3
    mempool_drop_window_s: Seconds = 300
    max_head_age_s: Seconds = 60
    max_head_lag: Count = 5
    probe_interval_s: Seconds = 5
    poll_interval_ms: Milliseconds = 1000
    return_after_s: Seconds = 30
    timeout_ms: Milliseconds = 5000
    deadline_ms: Milliseconds = 15_000
    max_missed_heads: Count = 128
    max_clients: Count = 256
    endpoints: tuple[EndpointConfig, ...]


class LbNodeConfig(Section, frozen=True, kw_only=True):
    """A node of the load balancer: one JSON-RPC endpoint."""

    url: NodeUrl
    workers: Workers | None = None


class LbConfig(Section, frozen=True, kw_only=True):
    """The load balancer: a JSON-RPC proxy with priority queues, as prio-load-balancer."""

    listen: Address = "127.0.0.1:8080"
    workers: Workers = 8
    tries: Annotated[int, Meta(ge=1, le=100, description="a whole number from 1 to 100")] = 3
    fast_track_per_high: Limit = 2
    fast_track_drain_first: bool = False
    fast_track_reserve: Limit = 0
    max_fast_track: Limit = 0
    max_high: Limit = 0
    max_low: Limit = 0
    low_ageing_ms: MillisecondsOrOff = 0
    queue_timeout_ms: Milliseconds = 5000
    handover_timeout_ms: Milliseconds = 2000
    proxy_timeout_ms: Milliseconds = 3000
    payload_max_kb: KiB = 8192
    response_max_kb: KiB = 65_536
    held_max_mib: Annotated[int, Meta(ge=1, le=1_048_576, description="a whole number of MiB from 1 to 1048576")] = 512
    max_connections: Count = 4096
    check_method: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,64}$", description="a JSON-RPC method")] = "net_version"
    check_interval_s: Seconds = 5
    check_timeout_ms: Milliseconds = 5000
    max_fails: Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 3
    ejection_s: Seconds = 5
    slow_return_s: Seconds = 10
    rate_limit: RatePerSecond = 0
    rate_burst: Count = 1000
    key_rate_limit: RatePerSecond = 0
    key_rate_burst: Count = 1000
    key_header: HeaderName = "X-Api-Key"
    nodes_api: bool = True
    log_requests: bool = True
    nodes: tuple[LbNodeConfig, ...] = ()


class AdminConfig(Section, frozen=True, kw_only=True):
    """Metrics, status and the operators' API."""

    listen: Address = "127.0.0.1:9090"
    token_file: Path | None = None


class LogConfig(Section, frozen=True, kw_only=True):
    """The process's own log lines, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    store: StoreConfig = StoreConfig()
    engine: EngineConfig | None = None
    flashblocks: FlashblocksConfig | None = None
    flashlog: FlashlogConfig = FlashlogConfig()
    replication: ReplicationConfig | None = None
    fanout: FanoutConfig | None = None
    providers: tuple[ProvidersConfig, ...] = ()
    lb: LbConfig | None = None
    admin: AdminConfig | None = None
    log: LogConfig = LogConfig()
