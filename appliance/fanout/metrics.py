"""What fan-out counts, under the names that websocket-proxy's dashboards use (REFERENCE, section 4)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from appliance.fanout.lag import LagDistribution


class Tally(Collector):
    """A number under exactly the name that it is given.

    prometheus-client's Counter would append `_total`, and existing dashboards would find nothing.
    """

    __slots__ = ("_help", "_name", "value")

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._help = documentation
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count. Only ever called from the event loop's thread."""
        self.value += amount

    def collect(self) -> Iterator[Metric]:
        """One sample; the type stays unknown to Prometheus, `rate()` works all the same."""
        metric = Metric(self._name, self._help, "unknown")
        metric.add_sample(self._name, {}, self.value)
        yield metric


class AppTally(Collector):
    """A number for each app, under exactly the name that it is given. Apps are configured, so there are few."""

    __slots__ = ("_help", "_name", "values")

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._help = documentation
        self.values: Counter[str] = Counter()

    def add(self, app: str, amount: int = 1) -> None:
        """Count for one app. Only ever called from the event loop's thread."""
        self.values[app] += amount

    def collect(self) -> Iterator[Metric]:
        """One sample for each app that was counted."""
        metric = Metric(self._name, self._help, "unknown")
        for app, value in self.values.items():
            metric.add_sample(self._name, {"app": app}, value)
        yield metric


@dataclass(frozen=True, slots=True)
class FanoutMetrics:
    """The plane's metrics, on one registry."""

    sent_messages: Tally
    failed_messages: Tally
    new_connections: Tally
    closed_connections: Tally
    lagged_connections: Tally
    active_connections: Tally
    rate_limited_requests: Tally
    unauthorized_requests: Tally
    bytes_broadcasted: Tally
    client_pong_disconnects: Tally
    catch_ups: Tally
    broadcast_seconds: Histogram
    connections_by_app: AppTally
    subscribers_by_app: AppTally
    lag: LagDistribution

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "FanoutMetrics":
        """Register all of them."""
        tallies = {name: Tally(f"websocket_proxy_{name}", text) for name, text in _TALLIES.items()}
        tallies["catch_ups"] = Tally("fanout_catch_ups", "Times a subscriber left the head of the stream")
        for tally in tallies.values():
            registry.register(tally)
        seconds = Histogram(
            "fanout_broadcast_seconds",
            "From the start of a broadcast until the last subscriber at the head was served",
            registry=registry,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0),
        )
        by_app = AppTally("websocket_proxy_connections_by_app", "Subscribers accepted with the keys of an app")
        now_by_app = AppTally("fanout_app_subscribers", "Subscribers connected now with the keys of an app")
        registry.register(by_app)
        registry.register(now_by_app)
        lag = LagDistribution(
            "fanout_subscriber_lag", "Subscribers by how many entries they are behind, at the last sweep"
        )
        registry.register(lag)
        return cls(
            **tallies, broadcast_seconds=seconds, connections_by_app=by_app, subscribers_by_app=now_by_app, lag=lag
        )

    def values(self) -> dict[str, int]:
        """All tallies by name."""
        found = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: tally.value for name, tally in found if isinstance(tally, Tally)}


_TALLIES = {
    "sent_messages": "Flashblocks handed to subscribers' sockets",
    "failed_messages": "Sends that ended a connection",
    "new_connections": "Subscribers accepted",
    "closed_connections": "Subscribers gone, for whatever reason",
    "lagged_connections": "Subscribers closed because they lagged beyond the bound",
    "active_connections": "Subscribers connected now",
    "rate_limited_requests": "Requests refused because of a limit",
    "unauthorized_requests": "Requests refused because they had no valid API key",
    "bytes_broadcasted": "Bytes of flashblock frames handed to subscribers' sockets",
    "client_pong_disconnects": "Subscribers dropped because no pong came in time",
}
