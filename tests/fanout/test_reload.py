"""Keys and limits that change while subscribers are there."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from appliance.fanout.api_keys import App
from appliance.fanout.attendance import Attendance
from appliance.fanout.service import FanoutSettings
from appliance.fanout.session import Session
from tests.fanout.fakes import MemoryLog
from tests.fanout.serving import RawClient, Serving, close_of, serving

ALPHA, NEXT, BETA = "alpha-key-0123456789", "alpha-next-0123456789", "beta-key-0123456789"


def settings(
    *, public: bool = False, max_per_ip: int = 100, max_subscribers: int = 100, **apps: list[str]
) -> FanoutSettings:
    keys = tuple(App.create(name, keys, 2) for name, keys in apps.items())
    return FanoutSettings(
        api_keys=keys, public_access=public, max_per_ip=max_per_ip, max_subscribers=max_subscribers, close_timeout_s=0.5
    )


async def ask(server: Serving, target: str) -> tuple[int, RawClient]:
    client = await server.client()
    return (await client.request(target))[0], client


async def admitted(server: Serving, target: str) -> RawClient:
    before = server.metrics.new_connections.value
    status, client = await ask(server, target)
    assert status == 101
    while server.metrics.new_connections.value == before:
        await server.until("position", server.hub()["position"])
    return client


async def test_a_key_can_be_replaced_by_another_without_a_gap() -> None:
    async with serving(MemoryLog(), settings(alpha=[ALPHA])) as server:
        old = await admitted(server, f"/ws/{ALPHA}")
        assert (await ask(server, f"/ws/{NEXT}"))[0] == 401
        await server.fanout.reload(settings(alpha=[ALPHA, NEXT]))
        new = await admitted(server, f"/ws/{NEXT}")
        await server.fanout.reload(settings(alpha=[NEXT]))
        assert close_of((await old.frames(1))[0]) == (1008, "API key removed")
        assert (await ask(server, f"/ws/{ALPHA}"))[0] == 401
        await server.until("subscribers", 1)
        await new.stream.send_all(b"\x89\x80\0\0\0\0")
        assert (await new.frames(1))[0].opcode == 0xA


async def test_who_is_closed_is_told_the_place_and_others_are_left_alone() -> None:
    log = MemoryLog()
    async with serving(log, settings(alpha=[ALPHA], beta=[BETA])) as server:
        alpha, beta = await admitted(server, f"/ws/{ALPHA}"), await admitted(server, f"/ws/{BETA}")
        log.append(3, 0)
        await server.until("position", 1)
        await beta.frames(1)
        await alpha.frames(1)
        await server.fanout.reload(settings(beta=[BETA]))
        code, reason = close_of((await alpha.frames(2))[1])
        assert (code, reason.split()[0], reason.split()[-1]) == (1008, "API", "flashblock_index=0")
        log.append(3, 1)
        assert len(await beta.frames(2)) == 2


async def test_access_that_is_public_no_more_closes_who_has_no_key() -> None:
    async with serving(MemoryLog(), settings(public=True, alpha=[ALPHA])) as server:
        stranger, alpha = await admitted(server, "/ws"), await admitted(server, f"/ws/{ALPHA}")
        await server.fanout.reload(settings(alpha=[ALPHA]))
        assert close_of((await stranger.frames(1))[0]) == (1008, "API key needed")
        assert (await ask(server, "/ws"))[0] == 401
        await server.fanout.reload(settings())
        assert close_of((await alpha.frames(1))[0]) == (1008, "API key removed")
        assert (await ask(server, "/ws"))[0] == 101


async def test_limits_hold_from_then_on_for_newcomers() -> None:
    async with serving(MemoryLog(), settings(max_per_ip=2)) as server:
        for _ in range(2):
            await admitted(server, "/ws")
        assert (await ask(server, "/ws"))[0] == 429
        await server.fanout.reload(settings(max_per_ip=3))
        assert (await ask(server, "/ws"))[0] == 101
        await server.fanout.reload(settings(max_per_ip=9, max_subscribers=1))
        assert (await ask(server, "/ws"))[0] == 429
        await server.until("subscribers", 3)
        assert server.fanout.statistics()["max_subscribers"] == 1
        assert server.fanout._server is not None
        assert server.fanout._server._limits.max_connections == 1 + 256


async def test_one_that_is_let_in_while_its_key_goes_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(MemoryLog(), settings(alpha=[ALPHA])) as server:
        plain = Attendance.admit

        def reload_first(attendance: Attendance, session: Session, *arguments: object) -> None:
            server.fanout._gate.keys = type(server.fanout._gate.keys)([App.create("other", [BETA], 1)])
            plain(attendance, session, *arguments)  # type: ignore[arg-type]  # whatever they are

        monkeypatch.setattr(Attendance, "admit", reload_first)
        _, late = await ask(server, f"/ws/{ALPHA}")
        assert close_of((await late.frames(1))[0])[0] == 1008


async def test_an_app_with_another_name_and_the_same_key_keeps_its_subscribers_and_is_counted_by_that_name() -> None:
    async with serving(MemoryLog(), settings(alpha=[ALPHA])) as server:
        alpha = await admitted(server, f"/ws/{ALPHA}")
        await server.fanout.reload(settings(renamed=[ALPHA]))
        await alpha.stream.send_all(b"\x89\x80\0\0\0\0")
        assert (await alpha.frames(1))[0].opcode == 0xA
        assert server.fanout.statistics()["apps"] == {"renamed": 1}
        await admitted(server, f"/ws/{ALPHA}")
        assert (await ask(server, f"/ws/{ALPHA}"))[0] == 429, "two is the limit, by either name"
        await alpha.stream.aclose()
        await server.until("subscribers", 1)
        assert server.fanout.statistics()["apps"] == {"renamed": 1}
        counted = {app: server.metrics.subscribers_by_app.values[app] for app in ("alpha", "renamed")}
        assert counted == {"alpha": 0, "renamed": 1}


async def test_who_is_being_closed_already_is_not_counted_by_the_next_reload() -> None:
    log = MemoryLog()
    patient = replace(settings(alpha=[ALPHA]), close_timeout_s=60.0)
    async with serving(log, patient) as server:
        await admitted(server, f"/ws/{ALPHA}")  # it never answers a close frame
        with capture_logs() as lines:
            for max_per_ip in (100, 99, 98):
                await server.fanout.reload(settings(max_per_ip=max_per_ip, beta=[BETA]))
        assert server.hub()["subscribers"] == 1
    (line,) = [line for line in lines if line["event"].startswith("subscribers closed")]
    assert line["subscribers"] == 1
