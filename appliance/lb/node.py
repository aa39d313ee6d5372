"""One node as the load balancer has it: its slots, its health, and a connection for each worker in use."""

import ssl
from dataclasses import dataclass, field
from functools import partial

import trio

from appliance.domain.node_uri import Claim, NodeUri
from appliance.lb.attestation import EvidenceVerifier
from appliance.lb.dispatch import Slots
from appliance.lb.node_health import HealthRules, NodeHealth
from appliance.net.http_lane import Check, HttpLane, post_head
from appliance.net.opening import Endpoint, Stream, parse_url
from appliance.net.readiness import Readiness
from appliance.net.tls import client_context, unverified_context


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What all nodes share. Times in seconds."""

    default_workers: int = 8
    max_response_bytes: int = 64 * 1024 * 1024
    connect_timeout_s: float = 3.0
    health: HealthRules = field(default_factory=HealthRules)


class Node(Slots):
    """``source`` is "file" or "added". A worker's connection stays open for the next request on that worker."""

    __slots__ = ("_connect", "_lanes", "head", "health", "nudge", "removed", "scope", "source", "told", "unkept", "uri")

    def __init__(
        self,
        uri: NodeUri,
        source: str,
        settings: NodeSettings,
        now: float,
        *,
        verifier: EvidenceVerifier | None = None,
        workers: int | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        workers = workers or uri.workers or settings.default_workers
        super().__init__(uri.shown, workers)
        self.uri = uri
        self.source = source
        self.health = NodeHealth(settings.health, workers, now)
        self.told = self.health.state  # what the log has of it
        self.unkept: str | None = None  # why a restart forgets it
        self.removed = False
        self.nudge = trio.Event()  # its health changed, so that the next check may be due earlier
        self.scope = trio.CancelScope()  # of the task that checks it
        endpoint = _endpoint(uri)
        self.head = post_head(endpoint)
        self._lanes: list[HttpLane] = []  # idle, the last used last; at most one for each worker
        self._connect = partial(
            HttpLane,
            endpoint,
            ssl_context=_ssl_context(uri),
            max_response_bytes=settings.max_response_bytes,
            connect_timeout_s=settings.connect_timeout_s,
            check=_evidence_check(uri.claim, verifier),
            readiness=readiness,
        )

    def __repr__(self) -> str:
        return f"<Node {self.name}, {self.in_flight}/{self.capacity}, {self.health.state}>"

    def take_lane(self) -> HttpLane:
        """For one request; give it back with `put_lane`."""
        return self._lanes.pop() if self._lanes else self._connect()

    def put_lane(self, lane: HttpLane) -> None:
        """Its request is over, however it ended."""
        if self.removed or len(self._lanes) >= self.health.workers:
            lane.close()
        else:
            self._lanes.append(lane)

    def new_lane(self) -> HttpLane:
        """A connection of its own, for checks."""
        return self._connect()

    def retire(self) -> None:
        """It was removed: close what is idle now, and the rest as it ends."""
        self.removed = True
        self.scope.cancel()
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()

    def explain(self, now: float) -> dict[str, object]:
        """For the operator."""
        return {
            "uri": self.name,
            "source": self.source,
            "workers": self.health.workers,
            "in_flight": self.in_flight,
            "kept": self.unkept is None,
            "problem": self.unkept,
            "attested": None if self.uri.claim is None else self.uri.claim.scheme,
            "explain": self.health.explain(now),
        }


def _endpoint(uri: NodeUri) -> Endpoint:
    if uri.claim is None:
        return parse_url(uri.url, "http", "https")
    scheme, _, rest = uri.url.partition("://")
    return parse_url(f"{scheme}://{rest.partition('@')[2]}", "https")  # what stands before @ is no credential


def _ssl_context(uri: NodeUri) -> ssl.SSLContext | None:
    if not uri.url.startswith("https://"):
        return None
    # The certificate of an attested node is signed by nobody: its evidence is checked instead.
    return client_context() if uri.claim is None else unverified_context()


def _evidence_check(claim: Claim | None, verifier: EvidenceVerifier | None) -> Check | None:
    if claim is None:
        return None
    if verifier is None:
        raise AssertionError(f"a node that claims {claim.scheme} is never connected without a verifier")

    async def check(stream: Stream) -> None:
        certificate = stream.getpeercert(binary_form=True) if isinstance(stream, trio.SSLStream) else None
        await trio.to_thread.run_sync(verifier.verify, certificate or b"", claim)

    return check
