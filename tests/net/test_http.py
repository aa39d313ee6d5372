import pytest

from appliance.net.http import Headers, HttpRequest, HttpResponse


def request(target: str) -> HttpRequest:
    return HttpRequest("GET", target, Headers())


def test_headers_are_found_by_lower_case_name_however_they_were_written() -> None:
    headers = Headers({"Content-Type": "text/plain", "X-Fast-Track": "true"})

    assert headers["content-type"] == "text/plain"
    assert headers.get("x-fast-track") == "true"
    assert headers.get("x-high-priority") is None
    assert "content-type" in headers
    assert "Content-Type" not in headers
    assert len(headers) == 2
    assert list(headers) == ["content-type", "x-fast-track"]


def test_a_header_given_several_times_holds_all_values_in_order() -> None:
    headers = Headers([("X-Forwarded-For", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2, 10.0.0.3")])

    assert headers["x-forwarded-for"].rpartition(", ")[2] == "10.0.0.3"
    assert headers == {"x-forwarded-for": "10.0.0.1, 10.0.0.2, 10.0.0.3"}


def test_headers_can_be_made_of_headers_and_read_well() -> None:
    headers = Headers(Headers({"A": "b"}))

    assert repr(headers) == "Headers({'a': 'b'})"
    assert dict(headers.items()) == {"a": "b"}


@pytest.mark.parametrize(
    ("target", "path", "raw_query"),
    [
        ("/", "/", ""),
        ("/ws?payload_id=0x01", "/ws", "payload_id=0x01"),
        ("/a%2Fb?x=?", "/a%2Fb", "x=?"),
        ("http://host:1/ws?a=b", "/ws", "a=b"),
        ("http://host", "/", ""),
        ("http://host?a=b", "/", "a=b"),
        ("/redirect?to=http://host/", "/redirect", "to=http://host/"),
        ("*", "*", ""),
    ],
)
def test_path_and_query_are_taken_from_origin_and_absolute_form(target: str, path: str, raw_query: str) -> None:
    assert request(target).path == path
    assert request(target).raw_query == raw_query


def test_of_a_query_parameter_given_twice_the_last_one_wins() -> None:
    assert request("/?n=1&m=&n=2&x=%20y+z").query == {"n": "2", "m": "", "x": " y z"}


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        request("/").body = b"x"  # type: ignore[misc]  # that is what is tested


def test_responses_are_equal_by_value_and_read_well() -> None:
    response = HttpResponse(200, b"ok", {"Content-Type": "text/plain"})

    assert response == HttpResponse(200, b"ok", [("content-type", "text/plain")])
    assert response != HttpResponse(200, b"ok")
    assert response != HttpResponse(404, b"ok", {"Content-Type": "text/plain"})
    assert response != "ok"
    assert repr(response) == "<HttpResponse 200, 2 bytes>"
