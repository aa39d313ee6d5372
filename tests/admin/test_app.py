from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from appliance.admin.app import AdminSources, EngineSources, create_app
from appliance.domain.health import Health, HealthFact
from appliance.domain.modes import ExecutionMode

FACT = HealthFact("el", healthy=False, reason="no answer since 12 s")


def sources(health: Health = Health.OK) -> AdminSources:
    registry = CollectorRegistry()
    Counter("blocks", "Blocks", registry=registry).inc(3)
    return AdminSources(
        registry=registry,
        status=lambda: {"planes": {"engine": {"state": "running"}}},
        health=lambda: (health, [FACT]),
    )


async def get(path: str, app_sources: AdminSources, token: str | None = None, **headers: str) -> Any:
    return await create_app(app_sources, token).test_client().get(path, headers=headers)


async def test_metrics_are_in_prometheus_text_form() -> None:
    answer = await get("/metrics", sources())
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    assert "blocks_total 3.0" in (await answer.get_data()).decode()


@pytest.mark.parametrize("health", list(Health))
async def test_healthz_answers_the_code_of_the_health_and_the_reasons(health: Health) -> None:
    answer = await get("/healthz", sources(health))
    assert answer.status_code == health.value
    assert await answer.get_json() == {
        "status": health.name.lower(),
        "facts": [{"name": "el", "healthy": False, "reason": "no answer since 12 s"}],
    }


async def test_status_is_every_planes_statistics_as_json() -> None:
    answer = await get("/api/v1/status", sources())
    assert await answer.get_json() == {"planes": {"engine": {"state": "running"}}}


async def test_an_unknown_path_says_which_there_are() -> None:
    answer = await get("/api/v2", sources())
    assert answer.status_code == 404
    assert "/api/v1/status" in (await answer.get_json())["message"]


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}])
async def test_with_a_token_the_api_refuses_who_does_not_have_it(given: dict[str, str]) -> None:
    answer = await get("/api/v1/status", sources(), "s3cret", **given)
    assert answer.status_code == 401


async def test_with_a_token_the_api_answers_who_has_it_and_the_rest_stays_open() -> None:
    answer = await get("/api/v1/status", sources(), "s3cret", Authorization="Bearer s3cret")
    assert answer.status_code == 200
    assert (await get("/metrics", sources(), "s3cret")).status_code == 200
    assert (await get("/healthz", sources(), "s3cret")).status_code == 200


class FakeEngine:
    """Writes down who throws what."""

    def __init__(self) -> None:
        self.throws: list[tuple[ExecutionMode, str]] = []
        self.limits: list[int] = []

    def sources(self) -> AdminSources:
        def payloads(limit: int) -> list[dict[str, object]]:
            self.limits.append(limit)
            return [{"payload_id": "0x01"}]

        async def throw(mode: ExecutionMode, who: str) -> dict[str, object]:
            self.throws.append((mode, who))
            return {"execution_mode": mode}

        engine = EngineSources(
            mode=lambda: {"execution_mode": "enabled"},
            throw=throw,
            payloads=payloads,
            payload=lambda name: {"payload_id": name} if name == "0x01" else None,
        )
        plain = sources()
        return AdminSources(plain.registry, plain.status, plain.health, engine)


async def put(body: bytes, engine: FakeEngine, token: str | None = None, **headers: str) -> Any:
    return await create_app(engine.sources(), token).test_client().put("/api/v1/mode", data=body, headers=headers)


async def test_the_mode_is_read() -> None:
    answer = await get("/api/v1/mode", FakeEngine().sources())
    assert await answer.get_json() == {"execution_mode": "enabled"}


@pytest.mark.parametrize("mode", list(ExecutionMode))
async def test_the_mode_is_switched_and_who_did_it_is_told(mode: ExecutionMode) -> None:
    engine = FakeEngine()
    answer = await put(f'{{"execution_mode":"{mode}"}}'.encode(), engine)
    assert await answer.get_json() == {"execution_mode": str(mode)}
    await put(f'{{"execution_mode":"{mode}","via":"cli","user":"op.s"}}'.encode(), engine)
    (_, api), (_, cli) = engine.throws
    assert api.startswith("admin api ")
    assert cli.startswith("cli ")
    assert cli.endswith(" (op.s)")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"execution_mode":"off"}',
        b'["disabled"]',
        b'{"execution_mode":"disabled","via":"debug api"}',
        b'{"execution_mode":"disabled","user":"a\\nforged line"}',
        b'{"execution_mode":"disabled","more":1}',
        b"\xff",
    ],
)
async def test_a_body_that_is_no_mode_switches_nothing(body: bytes) -> None:
    engine = FakeEngine()
    answer = await put(body, engine)
    assert answer.status_code == 400
    assert "enabled, dry_run, disabled" in (await answer.get_json())["message"]
    assert engine.throws == []


async def test_with_a_token_the_switch_asks_for_it() -> None:
    engine = FakeEngine()
    body = b'{"execution_mode":"disabled"}'
    assert (await put(body, engine, "s3cret")).status_code == 401
    assert engine.throws == []
    assert (await put(body, engine, "s3cret", Authorization="Bearer s3cret")).status_code == 200


async def test_decisions_are_listed_and_found() -> None:
    engine = FakeEngine()
    listed = await get("/api/v1/payloads", engine.sources())
    assert await listed.get_json() == {"payloads": [{"payload_id": "0x01"}]}
    await get("/api/v1/payloads?limit=7", engine.sources())
    assert engine.limits == [50, 7]
    assert (await get("/api/v1/payloads?limit=x", engine.sources())).status_code == 400
    assert await (await get("/api/v1/payloads/0x01", engine.sources())).get_json() == {"payload_id": "0x01"}
    assert (await get("/api/v1/payloads/0x02", engine.sources())).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/mode", "/api/v1/payloads", "/api/v1/payloads/0x01"])
async def test_a_host_without_an_engine_has_no_switch(path: str) -> None:
    assert (await get(path, sources())).status_code == 404
