import io
import json
import logging

from appliance.telemetry.logging import configure, get_logger


def test_text_is_one_line_with_the_event_and_its_fields() -> None:
    out = io.StringIO()
    configure("info", "text", out)
    get_logger("engine").info("returning block", number=7, payload_id="0x03c446f063e3735a")
    [line] = out.getvalue().splitlines()
    assert "returning block" in line
    assert "number=7" in line
    assert "payload_id=0x03c446f063e3735a" in line
    assert "plane=engine" in line


def test_json_is_one_object_with_the_event_as_message() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    get_logger("engine").warning("returning block", number=7)
    line = json.loads(out.getvalue())
    assert line["message"] == "returning block"
    assert line["number"] == 7
    assert line["level"] == "warning"
    assert line["plane"] == "engine"
    assert line["time"].endswith("Z")


def test_an_exception_is_a_field_in_json_not_more_lines() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    try:
        raise ValueError("no such thing")
    except ValueError:
        get_logger("fanout").exception("subscriber failed")
    [line] = out.getvalue().splitlines()
    assert "ValueError: no such thing" in json.loads(line)["exception"]


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    configure("warning", "json", out)
    get_logger("engine").info("returning block")
    assert out.getvalue() == ""


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    log = get_logger("early")
    out = io.StringIO()
    configure("info", "json", out)
    log.info("ready")
    assert json.loads(out.getvalue())["message"] == "ready"


def test_what_libraries_log_has_the_same_form() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    logging.getLogger("hypercorn.error").warning("odd request from %s", "a client")
    line = json.loads(out.getvalue())
    assert line["message"] == "odd request from a client"
    assert line["logger"] == "hypercorn.error"
