"""What the load balancer counts. Nodes are not labels: their addresses are in `/api/v1/lb/nodes`."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from appliance.lb.dispatch import Refusal
from appliance.lb.queue import Priority
from appliance.lb.rate_limit import INSTANCE, KEY
from appliance.telemetry.light_metrics import LightCounter, LightHistogram

PRIORITY_NAMES = {Priority.FAST_TRACK: "fast_track", Priority.HIGH: "high", Priority.LOW: "low"}
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class LbMetrics:
    """The plane's metrics, on one registry. The light ones are counted on every request."""

    requests: LightCounter
    queue_wait: LightHistogram
    proxy_seconds: LightHistogram
    answers: LightCounter
    queue_depth: Gauge
    retries: Counter
    refused: dict[Refusal, Counter]
    rate_limited: dict[str, Counter]
    cancelled: Counter
    in_flight: Gauge
    held_bytes: Gauge
    nodes: Gauge
    ejections: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry) -> "LbMetrics":
        """Register all of them."""
        names = [PRIORITY_NAMES[each] for each in Priority]
        requests = LightCounter("lb_requests", "Requests to be proxied", "priority", names)
        wait = "From a request's arrival to its first try"
        queue_wait = LightHistogram("lb_queue_wait_seconds", wait, "priority", names, _BUCKETS)
        proxy = "One try at one node, whatever came of it"
        proxy_seconds = LightHistogram("lb_proxy_seconds", proxy, "priority", names, _BUCKETS)
        statuses = [f"{digit}xx" for digit in range(10)]
        answers = LightCounter("lb_answers", "Answers to clients by class of status", "status", statuses)
        for each in (requests, queue_wait, proxy_seconds, answers):
            registry.register(each)
        limited = Counter("lb_rate_limited", "Requests over a rate limit", ["limit"], registry=registry)
        refused = Counter("lb_refused", "Requests answered without a node", ["reason"], registry=registry)
        return cls(
            requests=requests,
            queue_wait=queue_wait,
            proxy_seconds=proxy_seconds,
            answers=answers,
            queue_depth=Gauge("lb_queue_depth", "Requests that wait for a worker", ["priority"], registry=registry),
            retries=Counter("lb_retries", "Tries beyond a request's first", registry=registry),
            refused={each: refused.labels(each.name.lower()) for each in Refusal},
            rate_limited={each: limited.labels(each) for each in (INSTANCE, KEY)},
            cancelled=Counter("lb_cancelled", "Requests whose client went away", registry=registry),
            in_flight=Gauge("lb_in_flight", "Requests that nodes work on", registry=registry),
            held_bytes=Gauge("lb_held_bytes", "Bytes of answers that wait for slow clients", registry=registry),
            nodes=Gauge("lb_nodes", "Nodes by state", ["state"], registry=registry),
            ejections=Counter("lb_ejections", "Times that a node was taken out", registry=registry),
        )
