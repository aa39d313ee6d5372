import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from appliance.cli.status import render, render_all

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


def shown(report: dict[str, Any], show: Callable[[dict[str, Any]], RenderableType] = render_all) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(show(report))
    return capture.get()


def lines(report: dict[str, Any], show: Callable[[dict[str, Any]], RenderableType] = render_all) -> list[list[str]]:
    return [line.split() for line in shown(report, show).splitlines() if line.strip()]


@pytest.mark.parametrize("show", [render, render_all])
def test_health_is_first_with_each_reason(show: Callable[[dict[str, Any]], RenderableType]) -> None:
    found = lines(REPORT, show)
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


# --- on one screen ---

REAL = json.loads((Path(__file__).parent / "status.json").read_text())
"""What a devnet's appliance answered."""


def test_a_whole_host_fits_on_one_screen() -> None:
    text = shown(REAL, render)
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 120


def test_what_people_look_at_first_is_there() -> None:
    found = [" ".join(line) for line in lines(REAL, render)]
    for expected in (
        "planes flashblocks running, engine running, debug running, fanout running, admin running",
        "mode enabled (switch, since 2026-01-05T09:00:00.000+00:00 by cli 127.0.0.1 (root))",
        "policy builder",
        "blocks builder 6, l2 3; a dry run would have returned alpha 3",
        "last block 29,772,347 by assembled beta in 0.235 ms, 0xc200ca662751f227",
        "builder alpha 56 calls, 0 calls without an answer, 0 wait, 0 dropped",
        "flashblocks block 29,772,348 by alpha, 2 logged; 6 payloads landed, 0 dropped",
        "source beta connected, the last message 0.198 s ago; 92 messages, 0 unreadable",
        "fan-out 0 subscribers, 0 catch up, lag 0; 0 sent, 0 closed for lagging",
        "log 62 flashblocks of 7 payloads, 0.2 MiB; 0 writes wait, 0 failed",
    ):
        assert expected in found


def test_what_is_wrong_is_said() -> None:
    report = json.loads(json.dumps(REAL))
    report["planes"]["fanout"] |= {"state": "restarting", "restarts": 3}
    report["planes"]["engine"]["mode"] |= {"kept": False, "problem": "disk full"}
    report["planes"]["flashblocks"]["sources"]["beta"] |= {"connected": False, "last_error": "[Errno 111] refused"}
    report["planes"]["flashblocks"]["stream"]["paused"] = "equivocation"
    report["flashlog"] |= {"failed_writes": 2, "last_error": "no space"}
    text = shown(report, render)
    for expected in (
        "fanout restarting (3 restarts)",
        "NOT KEPT: disk full",
        "not connected: [Errno 111] refused; 92 messages",
        "paused: equivocation",
        "2 failed, last error: no space",
    ):
        assert expected in text


def test_a_builder_listener_has_lines_of_its_own() -> None:
    report = json.loads(json.dumps(REAL))
    report["planes"] = {"builder_listen": report["planes"]["engine"]}
    found = [" ".join(line) for line in lines(report, render)]
    assert "shared policy builder, 1 connections, 39 requests" in found
    assert "shared builder alpha 56 calls, 0 calls without an answer, 0 wait, 0 dropped" in found


def test_a_report_of_another_version_is_shown_as_far_as_it_goes() -> None:
    text = shown(REPORT, render)
    assert "engine running, fanout restarting (3 restarts), admin running" in " ".join(text.split())
    assert "- subscribers" in text
