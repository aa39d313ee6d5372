from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from appliance.admin.app import AdminSources, create_app
from appliance.domain.health import Health, HealthFact

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
