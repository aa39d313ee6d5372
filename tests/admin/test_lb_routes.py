"""`/api/v1/lb/nodes`."""

from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from appliance.admin.app import AdminSources, create_app
from appliance.admin.lb_routes import LbSources
from appliance.domain.errors import ApplianceError
from appliance.domain.health import Health

PATH = "/api/v1/lb/nodes"


class Nodes:
    """What a load balancer would do."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.refusal: ApplianceError | None = None

    def list(self) -> dict[str, object]:
        return {"nodes": [], "problem": None}

    async def add(self, uri: str, workers: int | None, who: str) -> dict[str, object]:
        self._ask("add", uri, workers, who)
        return {"uri": uri}

    async def remove(self, uri: str, who: str) -> None:
        self._ask("remove", uri, who)

    def _ask(self, *what: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(what)


def client(nodes: Nodes | None, token: str | None = None) -> Any:
    lb = None if nodes is None else LbSources(nodes.list, nodes.add, nodes.remove)
    return create_app(AdminSources(CollectorRegistry(), dict, lambda: (Health.OK, []), None, lb), token).test_client()


async def test_nodes_are_listed_added_and_removed() -> None:
    nodes = Nodes()
    asked = client(nodes)
    assert msgspec.json.decode(await (await asked.get(PATH)).get_data()) == {"nodes": [], "problem": None}
    body = {"uri": "http://foo", "workers": 4, "via": "cli", "user": "root"}
    added = await asked.post(PATH, json=body)
    assert (added.status_code, msgspec.json.decode(await added.get_data())) == (200, {"uri": "http://foo"})
    removed = await asked.delete(PATH, json={"uri": "http://foo"})
    assert removed.status_code == 200
    (first, second) = nodes.asked
    assert first[:3] == ("add", "http://foo", 4)
    assert str(first[3]).startswith("cli ")
    assert str(first[3]).endswith("(root)")
    assert second[:2] == ("remove", "http://foo")
    assert str(second[2]).startswith("admin api ")


async def test_what_is_refused_is_400_with_the_reason() -> None:
    nodes = Nodes()
    nodes.refusal = ApplianceError("node not found")
    answer = await client(nodes).delete(PATH, json={"uri": "http://foo"})
    assert (answer.status_code, msgspec.json.decode(await answer.get_data())) == (400, {"message": "node not found"})


async def test_a_body_that_is_none_is_400() -> None:
    nodes = Nodes()
    for body in (b"", b"{", b"[]", b'{"uri": 5}', b'{"url": "http://foo"}', b'{"uri": "http://foo", "workers": 0}'):
        answer = await client(nodes).post(PATH, data=body)
        assert answer.status_code == 400, body
        assert "expected" in msgspec.json.decode(await answer.get_data())["message"]
    assert nodes.asked == []


async def test_with_a_token_nodes_ask_for_it() -> None:
    nodes = Nodes()
    asked = client(nodes, "0123456789abcdef")
    assert (await asked.get(PATH)).status_code == 401
    assert (await asked.post(PATH, json={"uri": "http://foo"})).status_code == 401
    good = {"Authorization": "Bearer 0123456789abcdef"}
    assert (await asked.post(PATH, json={"uri": "http://foo"}, headers=good)).status_code == 200


async def test_without_a_load_balancer_there_is_no_such_path() -> None:
    assert (await client(None).get(PATH)).status_code == 404
