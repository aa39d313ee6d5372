from typing import Any

from rich.console import Console

from appliance.cli.status import render

REPORT: dict[str, Any] = {
    "version": "9.9.9",
    "uptime_s": 93784.2,
    "health": {
        "status": "partial",
        "facts": [
            {"name": "l2", "healthy": True, "reason": "latest block is 1 s old"},
            {"name": "alpha", "healthy": False, "reason": "Connection refused"},
        ],
    },
    "listening": {"engine": "127.0.0.1:8081"},
    "planes": {
        "engine": {"state": "running", "restarts": 0, "blocks": {"builder": 1234, "l2": 5}, "head": None},
        "fanout": {"state": "restarting", "restarts": 3, "hub": {"at_head": {"text": 2}, "full": False}, "lag": 0.25},
        "admin": {"state": "running", "restarts": 0},
    },
    "flashlog": {"head": 4711, "peers": []},
}


def shown(report: dict[str, Any]) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def lines(report: dict[str, Any]) -> list[list[str]]:
    return [line.split() for line in shown(report).splitlines() if line.strip()]


def test_health_is_first_with_each_reason() -> None:
    found = lines(REPORT)
    assert found[0] == ["appliance", "9.9.9,", "up", "1", "d", "2", "h"]
    assert found[1] == ["health", "partial"]
    assert found[2] == ["l2", "well", "latest", "block", "is", "1", "s", "old"]
    assert found[3] == ["alpha", "not", "well", "Connection", "refused"]


def test_one_line_says_how_far_behind_the_subscribers_are() -> None:
    lag = {"p50": 0, "p90": 1, "p99": 12, "max": 1400}
    hub = {"subscribers": 5000, "at_head": {"text": 4000, "brotli": 900}, "lag": lag}
    report = REPORT | {"planes": {"fanout": {"state": "running", "restarts": 0, "hub": hub}}}
    expected = "subscribers 5,000, 4,900 at the head; entries behind: p50 0, p90 1, p99 12, max 1,400"
    assert expected.split() in lines(report)
    assert not any(line[0] == "subscribers" for line in lines(REPORT))
    report = REPORT | {"planes": {"fanout": {"state": "restarting", "restarts": 1, "hub": None}}}
    assert not any(line[0] == "subscribers" for line in lines(report))


def test_every_plane_has_its_state_and_restarts() -> None:
    found = lines(REPORT)
    assert ["engine", "running", "0"] in found
    assert ["fanout", "restarting", "3"] in found


def test_numbers_are_shown_by_their_path() -> None:
    found = lines(REPORT)
    assert ["blocks.builder", "1,234"] in found
    assert ["hub.at_head.text", "2"] in found
    assert ["hub.full", "no"] in found
    assert ["lag", "0.25"] in found
    assert ["head", "-"] in found
    assert ["head", "4,711"] in found


def test_markup_in_a_reason_is_text() -> None:
    fact = {"name": "l2", "healthy": False, "reason": "it said [/red] and [bold]"}
    report = {**REPORT, "health": {"status": "unavailable", "facts": [fact]}}
    assert "it said [/red] and [bold]" in shown(report)
