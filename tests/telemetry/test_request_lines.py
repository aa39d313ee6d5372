import io
import json
import re

import msgspec
import pytest

from appliance.telemetry import logging as telemetry
from appliance.telemetry import request_lines
from appliance.telemetry.request_lines import RequestLine, RequestLines


class Completed(RequestLine, tag_field="plane", tag="lb", rename="camel"):
    status_code: int
    node_uri: str = msgspec.field(name="nodeURI")
    req_id: str = msgspec.field(name="reqID")


class Number(RequestLine, tag_field="plane", tag="lb"):
    number: int


class Odd(RequestLine, tag_field="plane", tag="lb"):
    high: bool
    n: int
    plain: str
    odd: str
    empty: str
    escape: str
    left_out: str | msgspec.UnsetType = msgspec.UNSET


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    return set_target(monkeypatch, as_json=True)


def set_target(monkeypatch: pytest.MonkeyPatch, *, as_json: bool, shows_info: bool = True) -> io.StringIO:
    stream = io.StringIO()
    target = telemetry.LogTarget(stream, json=as_json, shows_info=shows_info)
    monkeypatch.setattr(telemetry, "_targets", [target])
    return stream


def test_a_json_line_is_formed_as_all_others(stream: io.StringIO) -> None:
    lines = RequestLines()
    lines.write(Completed(200, "http://foo", 'a"b', time=lines.now(), message="Request completed"))
    assert stream.getvalue() == ""
    lines.flush()
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time"))
    assert line == {
        "plane": "lb",
        "statusCode": 200,
        "nodeURI": "http://foo",
        "reqID": 'a"b',
        "level": "info",
        "message": "Request completed",
    }


def test_a_text_line_is_formed_as_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = set_target(monkeypatch, as_json=False)
    lines = RequestLines()
    lines.write(Odd(True, 3, "x", "a b", "", "\x1b[0m", time=lines.now(), message="Request completed"))
    lines.flush()
    assert re.fullmatch(
        r"\S+Z \[info     \] Request completed            plane=lb high=True n=3 plain=x odd='a b' empty=''"
        r" escape='\\x1b\[0m'\n",
        stream.getvalue(),
    )


def test_lines_are_written_together_and_in_order(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_lines, "_BATCH", 4)
    lines = RequestLines()
    for number in range(10):
        lines.write(Number(number, time="", message="x"))
    written = [json.loads(line)["number"] for line in stream.getvalue().splitlines()]
    assert 0 < len(written) < 10
    lines.flush()
    assert [json.loads(line)["number"] for line in stream.getvalue().splitlines()] == list(range(10))


def test_a_level_that_leaves_them_out_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = set_target(monkeypatch, as_json=True, shows_info=False)
    lines = RequestLines()
    assert not lines.enabled
    lines.write(Number(1, time="", message="x"))
    lines.flush()
    assert stream.getvalue() == ""


def test_before_the_log_is_configured_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_targets", [])
    lines = RequestLines()
    assert not lines.enabled
    lines.write(Number(1, time="", message="x"))
    lines.flush()


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", True), ("warning", False)])
def test_configure_says_where_lines_go(level: telemetry.LogLevel, shown: bool) -> None:
    stream = io.StringIO()
    telemetry.configure(level, "json", stream)
    assert telemetry.current_target() == telemetry.LogTarget(stream, json=True, shows_info=shown)
