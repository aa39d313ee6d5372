"""Nodes that come and go: `/nodes`, what is kept, what is the configuration's, and attested ones."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import ConfigError, LogError
from appliance.domain.health import Health
from appliance.domain.lb_nodes import AddedNode
from appliance.domain.node_uri import Claim
from appliance.flashlog.operator_state import OperatorState
from appliance.lb import node_set
from appliance.lb.attestation import AttestationFailed, AttestationUnavailable
from appliance.lb.metrics import LbMetrics
from appliance.lb.node_set import DeclaredNode, NodeRefused
from appliance.lb.server import FaceSettings
from appliance.lb.service import LbSettings, LoadBalancer
from appliance.net.http_server import open_listener
from tests.domain.test_node_uri import GOOD, sev
from tests.lb.test_failures import refused_port, replaced
from tests.lb.world import CALL, COOL, FakeNode, Gate, MemoryStore, World, fake_node, world
from tests.net.upstreams import TLS_FILES, Conversation, upstream
from tests.support.eventually import eventually

MRENCLAVE = "ab" * 32


async def uris(w: World) -> list[str]:
    answer = await w.get("/nodes")
    assert answer.headers["content-type"] == "application/json"
    found: list[str] = msgspec.json.decode(answer.body)
    return found


async def test_nodes_are_listed_added_and_removed_over_http() -> None:
    async with world() as w, fake_node() as node:
        assert (await w.get("/nodes")).body == b"[]\n"
        assert (await w.nodes("POST", node.url)).status == 200
        assert await uris(w) == [node.url]
        assert node.checks >= 1
        assert (await w.call()).body == COOL
        assert (await w.nodes("POST", node.url)).status == 200  # a second time changes nothing
        assert await uris(w) == [node.url]
        assert (await w.nodes("DELETE", node.url)).status == 200
        assert await uris(w) == []
        assert (await w.call()).status == 503


async def test_a_reload_in_the_turn_in_which_the_nodes_are_taken_up_is_not_lost_nor_are_there_two_of_one() -> None:
    async with fake_node() as a, fake_node() as b:
        for _ in range(20):  # trio shuffles who comes first
            lb = LoadBalancer(LbSettings(), (DeclaredNode(a.url),), LbMetrics.create(CollectorRegistry()))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lb._nodes.run, lambda lb=lb: lb._declared)
                nursery.start_soon(lb.reload, (DeclaredNode(a.url), DeclaredNode(b.url)))
                await trio.testing.wait_all_tasks_blocked()
                assert sorted(node.name for node in lb._dispatcher.nodes) == sorted([a.url, b.url])
                assert sorted(node.name for node in lb._nodes.nodes) == sorted([a.url, b.url])
                nursery.cancel_scope.cancel()


class FullStore(MemoryStore):
    """Forgets nothing while the disk is full."""

    is_full = True

    def forget_lb_node(self, url: str) -> None:
        if self.is_full:
            raise LogError("the disk is full")
        super().forget_lb_node(url)

    def keep_lb_node(self, node: AddedNode) -> None:
        if self.is_full:
            raise LogError("the disk is full")
        super().keep_lb_node(node)


async def test_a_node_that_the_configuration_took_over_and_dropped_does_not_come_back() -> None:
    store = FullStore()
    async with fake_node() as a, fake_node() as b:
        declared = DeclaredNode(a.url)
        async with world(declared, store=store) as w:
            store.is_full = False
            await w.lb.add_node(b.url, None, "admin")
            store.is_full = True
            await w.lb.reload((declared, DeclaredNode(b.url)))
            assert w.lb.explain_nodes()["problem"] == "not kept, a restart may bring it back: the disk is full"
            store.is_full = False
            await w.lb.reload((declared,))
        async with world(declared, store=store) as w:
            assert [node.name for node in w.lb._nodes.nodes] == [a.url]


async def test_a_number_of_workers_comes_with_the_uri_and_may_change() -> None:
    async with world() as w, fake_node() as node:
        await w.nodes("POST", f"{node.url}?_workers=2")
        assert await uris(w) == [f"{node.url}?_workers=2"]
        await w.nodes("POST", f"{node.url}?_workers=6")
        assert await uris(w) == [f"{node.url}?_workers=6"]
        assert w.lb._nodes.nodes[0].capacity == 6
        assert (await w.nodes("DELETE", f"{node.url}?_workers=6")).status == 200
        assert await uris(w) == []


async def test_what_cannot_be_done_is_400_with_the_reason() -> None:
    async with world() as w:
        answer = await w.nodes("DELETE", "http://localhost:8545X")
        assert (answer.status, answer.body) == (400, b"node not found\n")
        answer = await w.nodes("POST", refused_port())
        assert answer.status == 400
        assert b"health check of http://127.0.0.1:" in answer.body
        answer = await w.client.request("POST", "/nodes", (), b"{", timeout_s=60)
        assert answer.status == 400
        answer = await w.client.request("POST", "/nodes", (), b'{"url": "x"}', timeout_s=60)
        assert (answer.status, b"uri" in answer.body) == (400, True)
        assert await uris(w) == []


async def test_a_node_that_fails_its_check_is_not_added() -> None:
    async with world() as w, fake_node(FakeNode(check_status=479)) as node:
        answer = await w.nodes("POST", node.url)
        assert answer.status == 400
        assert b"status 479" in answer.body


async def test_nodes_may_be_the_admin_apis_alone() -> None:
    async with world(settings=replaced(face=FaceSettings(nodes_api=False))) as w, fake_node() as node:
        assert (await w.nodes("POST", node.url)).status == 403
        assert (await w.get("/nodes")).status == 200
        assert (await w.client.request("PUT", "/nodes", timeout_s=60)).status == 405


async def test_removing_a_node_lets_its_running_requests_finish() -> None:
    gate = Gate()
    async with world() as w, fake_node(FakeNode(gate)) as node, trio.open_nursery() as nursery:
        await w.nodes("POST", node.url)

        async def call() -> None:
            assert (await w.call()).body == COOL

        nursery.start_soon(call)
        await eventually(lambda: node.running == 1)
        assert (await w.nodes("DELETE", node.url)).status == 200
        gate.open_all()


async def test_removing_the_last_node_tells_who_waits() -> None:
    gate = Gate()
    async with world() as w, fake_node(FakeNode(gate)) as node, trio.open_nursery() as nursery:
        await w.nodes("POST", f"{node.url}?_workers=1")
        nursery.start_soon(w.call)
        await eventually(lambda: node.running == 1)

        async def waits() -> None:
            assert (await w.call()).body == b"no nodes available\n"

        nursery.start_soon(waits)
        await eventually(lambda: sum(w.sizes()) == 1)
        await w.nodes("DELETE", node.url)
        gate.open_all()


async def test_what_was_added_survives_a_restart_and_what_was_removed_does_not(tmp_path: object) -> None:
    store = OperatorState(tmp_path)  # type: ignore[arg-type]  # pytest's Path
    async with fake_node() as first, fake_node() as second:
        async with world(store=store) as w:
            await w.nodes("POST", f"{first.url}?_workers=3")
            await w.nodes("POST", second.url)
            await w.nodes("DELETE", second.url)
        async with world(store=store) as w:
            assert await uris(w) == [f"{first.url}?_workers=3"]
            assert w.lb.explain_nodes()["problem"] is None
            (explained,) = w.lb._nodes.explain()
            assert explained["source"] == "added"
            assert (await w.call()).body == COOL


async def test_the_configurations_nodes_are_declarative() -> None:
    store = MemoryStore()
    async with fake_node() as named, fake_node() as added:
        async with world(DeclaredNode(named.url, 2), store=store) as w:
            await w.nodes("POST", added.url)
            answer = await w.nodes("DELETE", named.url)
            assert answer.status == 400
            assert answer.body == f"{named.url} is named by the configuration: remove it there, and reload\n".encode()
            answer = await w.nodes("POST", f"{named.url}?_workers=9")  # its number of workers is the configuration's
            reason = f"{named.url} is named by the configuration, with 2 workers: change it there, and reload\n"
            assert (answer.status, answer.body) == (400, reason.encode())
            for same in (named.url, f"{named.url}?_workers=2"):
                assert (await w.nodes("POST", same)).status == 200
            assert await uris(w) == [f"{named.url}?_workers=2", added.url]
            assert list(store.kept) == [added.url]
        async with world(added.url, store=store) as w:  # the file names another one now
            assert await uris(w) == [added.url]
            assert w.lb._nodes.nodes[0].source == "file"
            assert store.kept == {}


async def test_a_store_that_fails_is_said_and_stops_nothing() -> None:
    class Broken(MemoryStore):
        def lb_nodes(self) -> list[AddedNode]:
            raise LogError("the disk is gone")

        def keep_lb_node(self, node: AddedNode) -> None:
            raise LogError("the disk is full")

    async with world(store=Broken()) as w, fake_node() as node:
        assert w.lb.explain_nodes()["problem"] == "kept nodes could not be read: the disk is gone"
        answer = await w.nodes("POST", node.url)
        assert (answer.status, answer.body) == (200, b"not kept, a restart forgets it: the disk is full\n")
        assert (await w.call()).body == COOL
        assert w.lb.health() is Health.PARTIAL
        assert w.lb.facts()[1].reason == "kept nodes could not be read: the disk is gone"


async def test_a_node_that_is_not_kept_is_said_by_every_answer_until_adding_it_again_keeps_it() -> None:
    store = FullStore()
    async with world(store=store) as w, fake_node() as node, fake_node() as other:
        added = await w.lb.add_node(node.url, 5, "admin")
        assert (added["kept"], added["problem"]) == (False, "not kept, a restart forgets it: the disk is full")
        store.is_full = False
        assert (await w.lb.add_node(other.url, None, "admin"))["kept"] is True
        assert w.lb.explain_nodes()["problem"] == added["problem"]
        assert (await w.lb.add_node(node.url, None, "admin"))["kept"] is True
        assert (store.kept[node.url].workers, w.lb.explain_nodes()["problem"]) == (5, None)
        store.is_full = True
        answer = await w.nodes("DELETE", node.url)
        assert (answer.status, answer.body) == (200, b"not kept, a restart may bring it back: the disk is full\n")


async def test_kept_nodes_that_cannot_be_read_at_the_start_are_taken_up_as_soon_as_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Locked(MemoryStore):
        reads = 0

        def lb_nodes(self) -> list[AddedNode]:
            self.reads += 1
            if self.reads <= 3:
                raise LogError("database is locked")
            return super().lb_nodes()

    monkeypatch.setattr(node_set, "_READ_AGAIN_S", 0.01)
    async with fake_node() as kept, fake_node() as named:
        store = Locked()
        for url in (kept.url, named.url):
            store.keep_lb_node(AddedNode(url, None, 0.0, "test"))
        async with world(named.url, store=store) as w:
            await eventually(lambda: w.lb.health() is Health.OK)
            assert await uris(w) == [named.url, kept.url]
            assert (list(store.kept), w.lb.explain_nodes()["problem"]) == ([kept.url], None)


async def test_a_node_that_was_removed_while_kept_ones_could_not_be_read_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Locked(FullStore):
        def lb_nodes(self) -> list[AddedNode]:
            if self.is_full:
                raise LogError("database is locked")
            return super().lb_nodes()

    monkeypatch.setattr(node_set, "_READ_AGAIN_S", 0.01)
    async with fake_node() as kept, fake_node() as other:
        store = Locked()
        store.kept = {url: AddedNode(url, None, 0.0, "test") for url in (kept.url, other.url)}
        async with world(store=store) as w:
            answer = await w.nodes("DELETE", kept.url)
            assert (answer.status, answer.body) == (
                400,
                b"node not found; kept nodes could not be read: database is locked\n",
            )
            await w.nodes("POST", kept.url)
            assert (await w.nodes("DELETE", kept.url)).status == 200
            store.is_full = False
            await eventually(lambda: w.lb.explain_nodes()["problem"] is None)
            assert await uris(w) == [other.url]
            assert list(store.kept) == [other.url]


def explained(w: World) -> list[dict[str, Any]]:
    nodes = w.lb.explain_nodes()["nodes"]
    assert isinstance(nodes, list)
    return nodes


async def test_a_kept_node_that_is_none_any_more_is_said_and_stops_nothing() -> None:
    store = MemoryStore()
    store.kept["x"] = AddedNode("ftp://x", None, 0.0, "test")
    async with world(store=store) as w:
        assert await uris(w) == []
        (shown,) = explained(w)
        assert (shown["explain"]["state"], shown["source"]) == ("refused", "added")
        assert "expected http://host:port" in shown["explain"]["reason"]
        assert "ftp" not in str(shown)
        assert list(store.kept) == ["x"]
        assert (await w.nodes("DELETE", shown["uri"])).status == 200
        assert (explained(w), w.lb.explain_nodes()["problem"]) == ([], None)


@pytest.mark.parametrize("how", ["as it was added", "as it is shown", "with its workers"])
async def test_a_kept_node_that_this_build_refuses_is_listed_with_the_reason_and_can_be_removed(how: str) -> None:
    url = f"https://SGX_{'ab' * 32}@host.example"
    store = MemoryStore()
    store.keep_lb_node(AddedNode(url, 5, 0.0, "another build"))
    async with world(store=store) as w:
        (shown,) = explained(w)
        reason = "attestation of SGX nodes is not available in this build"
        assert shown["explain"] == {"state": "refused", "reason": reason, "capacity": 0}
        assert (shown["workers"], shown["attested"]) == (5, "SGX")
        assert str(shown["uri"]).startswith("https://SGX_…@host.example/…")
        assert (await w.call()).body == b"no nodes available\n"
        names = {"as it was added": url, "as it is shown": str(shown["uri"]), "with its workers": f"{url}?_workers=5"}
        assert (await w.nodes("DELETE", names[how])).status == 200
        assert (explained(w), store.kept) == ([], {})
        assert (await w.nodes("DELETE", names[how])).body == b"node not found\n"


async def test_there_is_a_greatest_number_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_set, "MAX_NODES", 1)
    async with world() as w, fake_node() as first, fake_node() as second:
        await w.nodes("POST", first.url)
        answer = await w.nodes("POST", second.url)
        assert (answer.status, answer.body) == (400, b"there are 1 nodes already\n")


async def test_a_node_with_a_secret_path_is_used_shown_without_it_and_removed_as_shown() -> None:
    async with world() as w, fake_node() as node:
        await w.nodes("POST", f"{node.url}/v2/SECRET")
        (shown,) = await uris(w)
        assert "SECRET" not in shown
        assert (await w.call()).body == COOL
        assert node.requests[0].target == "/v2/SECRET"
        assert "SECRET" not in str(w.lb.statistics())
        assert (await w.nodes("DELETE", shown)).status == 200


async def test_for_the_admin_api() -> None:
    async with world() as w, fake_node() as node:
        added = await w.lb.add_node(node.url, 5, "cli")
        assert (added["uri"], added["workers"], added["source"]) == (node.url, 5, "added")
        with pytest.raises(ConfigError, match="workers: expected a whole number from 1 to 4096"):
            await w.lb.add_node(node.url, 5000, "cli")
        await w.lb.remove_node(node.url, "cli")
        with pytest.raises(NodeRefused, match="node not found"):
            await w.lb.remove_node(node.url, "cli")


@pytest.mark.parametrize("scheme", ["SEV", "SGX"])
async def test_attested_nodes_are_refused_in_this_build(scheme: str) -> None:
    uri = sev(GOOD) if scheme == "SEV" else f"https://SGX_{MRENCLAVE}@node.example"
    async with world() as w:
        answer = await w.nodes("POST", uri)
        expected = f"attestation of {scheme} nodes is not available in this build\n".encode()
        assert (answer.status, answer.body) == (400, expected)
        assert await uris(w) == []


async def test_an_attested_node_in_the_configuration_ends_the_start() -> None:
    declared = (DeclaredNode(f"https://SGX_{MRENCLAVE}@node.example"),)
    lb = LoadBalancer(LbSettings(), declared, LbMetrics.create(CollectorRegistry()))
    with pytest.RaisesGroup(AttestationUnavailable, flatten_subgroups=True):
        await lb.run(open_listener("127.0.0.77:0"), stopping=trio.Event())


class Verifier:
    """Takes one certificate."""

    def __init__(self, certificate: bytes) -> None:
        self.certificate = certificate
        self.claims: list[Claim] = []

    def verify(self, certificate: bytes, claim: Claim) -> None:
        self.claims.append(claim)
        if certificate != self.certificate:
            raise AttestationFailed("the evidence is another enclave's")


@asynccontextmanager
async def attested() -> AsyncGenerator[tuple[str, list[bytes]], None]:
    """A TLS node with a certificate that no authority signed; its URI and the requests that reached it."""
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while (request := await conversation.request()) is not None:
            seen.append(request)
            await conversation.answer(COOL)

    async with upstream(script, tls=True) as made:
        yield f"https://SGX_{MRENCLAVE}@{made.address}", seen


def certificate() -> bytes:
    return ssl.PEM_cert_to_DER_cert((TLS_FILES / "certificate.pem").read_text())


async def test_with_a_verifier_an_attested_node_is_verified_before_anything_is_sent() -> None:
    verifier = Verifier(certificate())
    async with attested() as (uri, seen), world(verifiers={"SGX": verifier}) as w:
        assert (await w.nodes("POST", uri)).status == 200
        assert (await w.call()).body == COOL
        assert verifier.claims[0] == Claim("SGX", bytes.fromhex(MRENCLAVE))
        assert any(request.endswith(CALL) for request in seen)  # checks come too
        assert MRENCLAVE.encode() not in b"".join(seen)
        assert b"authorization" not in b"".join(seen).lower()
        assert MRENCLAVE not in str(w.lb.statistics())


async def test_an_attested_node_whose_evidence_is_wrong_never_gets_a_byte() -> None:
    async with attested() as (uri, seen), world(verifiers={"SGX": Verifier(b"another")}) as w:
        answer = await w.nodes("POST", uri)
        assert answer.status == 400
        assert b"the evidence is another enclave's" in answer.body
        assert seen == []
