"""What the load balancer counts. Nodes are not labels: their addresses are in `/api/v1/lb/nodes`."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from appliance.lb.dispatch import Refusal
from appliance.lb.queue import Priority

PRIORITY_NAMES = {Priority.FAST_TRACK: "fast_track", Priority.HIGH: "high", Priority.LOW: "low"}
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class LbMetrics:
    """The plane's metrics, on one registry. Tuples are by priority, with their label bound already."""

    requests: tuple[Counter, ...]
    queue_wait: tuple[Histogram, ...]
    queue_depth: Gauge
    proxy_seconds: Histogram
    answers: Counter
    retries: Counter
    refused: dict[Refusal, Counter]
    rate_limited: Counter
    cancelled: Counter
    in_flight: Gauge
    nodes: Gauge
    ejections: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "LbMetrics":
        """Register all of them."""
        requests = Counter("lb_requests", "Requests to be proxied", ["priority"], registry=registry)
        refused = Counter("lb_refused", "Requests that no node was asked about", ["reason"], registry=registry)
        wait = Histogram(
            "lb_queue_wait_seconds",
            "From a request's arrival to its first try",
            ["priority"],
            registry=registry,
            buckets=_BUCKETS,
        )
        return cls(
            requests=tuple(requests.labels(PRIORITY_NAMES[each]) for each in Priority),
            queue_wait=tuple(wait.labels(PRIORITY_NAMES[each]) for each in Priority),
            queue_depth=Gauge("lb_queue_depth", "Requests that wait for a worker", ["priority"], registry=registry),
            proxy_seconds=Histogram(
                "lb_proxy_seconds", "One try at one node, whatever came of it", registry=registry, buckets=_BUCKETS
            ),
            answers=Counter("lb_answers", "Answers to clients by class of status", ["status"], registry=registry),
            retries=Counter("lb_retries", "Tries beyond a request's first", registry=registry),
            refused={each: refused.labels(each.name.lower()) for each in Refusal},
            rate_limited=Counter("lb_rate_limited", "Requests over a rate limit", registry=registry),
            cancelled=Counter("lb_cancelled", "Requests whose client went away", registry=registry),
            in_flight=Gauge("lb_in_flight", "Requests that nodes work on", registry=registry),
            nodes=Gauge("lb_nodes", "Nodes by state", ["state"], registry=registry),
            ejections=Counter("lb_ejections", "Times that a node was taken out", registry=registry),
        )
