import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.domain.errors import ConfigError, RemoteError, UnavailableError
from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken, TimedOut
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import open_listener
from tests.net.serving import running
from tests.net.upstreams import Conversation, echo_bodies, upstream
from tests.support.eventually import eventually
from tests.support.ports import lasting_port


async def ask(client: HttpClient, body: bytes = b"", *, timeout_s: float = 60) -> HttpResponse:
    return await client.request("POST", body=body, timeout_s=timeout_s)


def client_of(
    address: str, path: str = "/", *, max_connections: int = 32, max_response_bytes: int = 1 << 20
) -> HttpClient:
    url = f"http://{address}{path}"
    return HttpClient(url, max_connections=max_connections, max_response_bytes=max_response_bytes)


async def test_a_request_says_what_it_should() -> None:
    seen: list[bytes | None] = []

    async def script(conversation: Conversation) -> None:
        for _ in range(3):
            seen.append(await conversation.request())
            await conversation.answer(b"ok", b"X-Node: 1")

    async with upstream(script) as there, client_of(there.address, "/rpc?key=1") as client:
        response = await client.request("POST", headers={"X-Fast-Track": "true"}, body=b"hi", timeout_s=60)
        await client.request("GET", "/healthz", timeout_s=60)
        await client.request("GET", headers=[("Host", "other"), ("Connection", "close")], timeout_s=60)

    host = b"host: " + there.address.encode()
    assert seen == [
        b"POST /rpc?key=1 HTTP/1.1\r\n" + host + b"\r\nx-fast-track: true\r\ncontent-length: 2\r\n\r\nhi",
        b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n\r\n",
        b"GET /rpc?key=1 HTTP/1.1\r\nhost: other\r\n\r\n",
    ]
    assert response == HttpResponse(200, b"ok", {"content-length": "2", "x-node": "1"})


async def test_a_connection_is_used_again() -> None:
    async with upstream(echo_bodies) as there, client_of(there.address) as client:
        for number in range(20):
            assert (await ask(client, b"%d" % number)).body == b"%d" % number

        assert len(there.conversations) == 1
        assert repr(client) == f"<HttpClient http://{there.address}, 0 busy, 1 idle>"
        assert client.statistics() == {
            "origin": f"http://{there.address}",
            "busy": 0,
            "idle": 1,
            "requests": 20,
            "retried": 0,
            "timed_out": 0,
            "opened": 1,
        }


async def test_no_more_connections_than_allowed_are_opened() -> None:
    busy = most = 0
    all_busy = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        if busy == 3:
            all_busy.set()
        await all_busy.wait()
        await trio.lowlevel.checkpoint()
        busy -= 1
        return HttpResponse(200, request.body)

    async with running(handler, listener=open_listener("127.0.0.1:0")) as there:
        client = HttpClient(there.url, max_connections=3)
        async with client, trio.open_nursery() as nursery:

            async def one(number: int) -> None:
                assert (await ask(client, b"%d" % number)).body == b"%d" % number

            for number in range(30):
                nursery.start_soon(one, number)

        assert most == 3
        assert client.statistics()["opened"] == 3


async def test_answers_never_get_mixed_up_under_cancellation_and_deadlines() -> None:
    """Requests that are given up leave nothing behind for those that come after."""
    dice = random.Random(7)

    async def handler(request: HttpRequest) -> HttpResponse:
        await trio.sleep(dice.choice([0, 0, 0.0005, 0.002]))
        return HttpResponse(200, request.body * 20_000)

    async with running(handler, listener=open_listener("127.0.0.1:0")) as there:
        client = HttpClient(there.url, max_connections=4)
        outcomes = {"answered": 0, "given up": 0}

        async def one(number: int) -> None:
            body = b"%03d" % number
            try:
                timeout_s = dice.choice([0.0003, 0.001, 0.003, 60])
                response = await ask(client, body, timeout_s=timeout_s)
            except TimedOut:
                outcomes["given up"] += 1
            else:
                assert response.body == body * 20_000
                outcomes["answered"] += 1

        async with client:
            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    for number in range(40):
                        nursery.start_soon(one, number)
            assert (await ask(client, b"end")).body == b"end" * 20_000

        assert sum(outcomes.values()) == 200
        assert client.statistics()["timed_out"] == outcomes["given up"]


# Deadlines


# The clock stands still until the upstream lets it go on: a deadline is not met before there is what it should cover.


async def test_a_deadline_covers_the_wait_for_the_answer_and_its_connection_is_closed(mock_clock: MockClock) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if conversation.number == 0:
            mock_clock.jump(0.05)
            await conversation.wait_closed()
        else:
            await conversation.answer(b"second")

    async with upstream(script) as there, client_of(there.address) as client:
        with pytest.raises(TimedOut, match=r"no answer from http://127\.0\.0\.1:\d+ within 50 ms"):
            await ask(client, timeout_s=0.05)
        await there.conversations[0].ended.wait()

        assert (await ask(client)).body == b"second"
        assert client.statistics()["timed_out"] == 1


async def test_a_deadline_covers_half_an_answer(mock_clock: MockClock) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(0.05)
        await conversation.wait_closed()

    async with upstream(script) as there, client_of(there.address) as client:
        with pytest.raises(TimedOut):
            await ask(client, timeout_s=0.05)


async def test_a_deadline_covers_sending_to_an_upstream_that_does_not_read(mock_clock: MockClock) -> None:
    async def script(_: Conversation) -> None:
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(0.05)
        await trio.sleep_forever()

    async with upstream(script) as there, client_of(there.address) as client:
        with pytest.raises(TimedOut):
            await ask(client, bytes(20_000_000), timeout_s=0.05)


async def test_a_deadline_covers_waiting_for_a_free_connection() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.wait_closed()

    async with upstream(script) as there, client_of(there.address, max_connections=1) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client)
            await wait_all_tasks_blocked()

            with pytest.raises(TimedOut):
                await ask(client, timeout_s=0.02)
            nursery.cancel_scope.cancel()

        assert client.statistics()["busy"] == 0


async def test_a_cancelled_request_closes_its_connection() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.wait_closed()

    async with upstream(script) as there, client_of(there.address) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client)
            await eventually(lambda: bool(there.conversations))
            nursery.cancel_scope.cancel()

        await there.conversations[0].ended.wait()
        assert client.statistics()["idle"] == 0


# Connections that end


async def test_a_kept_connection_that_the_upstream_closed_is_replaced() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)

    async with upstream(script) as there, client_of(there.address) as client:
        for number in range(5):
            assert (await ask(client)).body == b"%d" % number
            await there.conversations[-1].ended.wait()


async def test_a_kept_connection_that_breaks_before_the_answer_is_retried_once() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)
        if conversation.number == 0:
            await conversation.request()  # and close instead of answering

    async with upstream(script) as there, client_of(there.address) as client:
        assert (await ask(client)).body == b"0"
        assert (await ask(client)).body == b"1"

        assert client.statistics()["retried"] == 1
        assert client.statistics()["opened"] == 2


async def test_a_request_is_sent_no_more_than_twice() -> None:
    requests = 0

    async def script(conversation: Conversation) -> None:
        nonlocal requests
        await conversation.request()
        if conversation.number == 0:
            await conversation.answer(b"")
            await conversation.request()
        requests += 1

    async with upstream(script) as there, client_of(there.address) as client:
        await ask(client)
        with pytest.raises(ConnectionBroken, match="closed before its answer"):
            await ask(client)

        assert requests == 2


async def test_a_fresh_connection_that_breaks_is_not_retried() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()

    async with upstream(script) as there, client_of(there.address) as client:
        with pytest.raises(ConnectionBroken):
            await ask(client)

        assert len(there.conversations) == 1


async def test_a_kept_connection_that_breaks_within_the_answer_is_not_retried() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"")
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with upstream(script) as there, client_of(there.address) as client:
        await ask(client)
        with pytest.raises(ConnectionBroken, match="in the middle of its answer"):
            await ask(client)

        assert len(there.conversations) == 1


async def test_a_refusal_that_comes_before_the_body_was_sent_is_the_answer() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.stream.receive_some(100)
        await conversation.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")

    async with upstream(script) as there, client_of(there.address) as client:
        try:
            response = await ask(client, bytes(5_000_000))
        except ConnectionBroken:
            return  # the reset may overtake the answer: then there is nothing to read
        assert (response.status, response.body) == (413, b"no")
        assert client.statistics()["idle"] == 0


async def test_an_answer_that_ends_with_the_connection_is_not_whole_behind_a_reset() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\n\r\nto the")
        await conversation.reset()

    async with upstream(script) as there, client_of(there.address) as client:
        with pytest.raises(ConnectionBroken):
            await ask(client)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", b"to the end"),
    ],
)
async def test_answers_that_end_the_connection_are_whole(answer: bytes, body: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)

    async with upstream(script) as there, client_of(there.address) as client:
        for _ in range(2):
            assert (await ask(client)).body == body

        assert len(there.conversations) == 2


async def test_a_chunked_answer_is_put_together_and_the_connection_kept() -> None:
    async def script(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await conversation.send(b"2\r\nde\r\n0\r\n\r\n")

    async with upstream(script) as there, client_of(there.address) as client:
        for _ in range(2):
            assert (await ask(client)).body == b"abcde"

        assert len(there.conversations) == 1


async def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await conversation.wait_closed()

    async with upstream(script) as there, client_of(there.address) as client:
        for number in range(3):
            assert (await ask(client)).body == b"%d" % number
            await wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_answers_that_break_the_protocol_or_the_limit_are_errors(answer: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)
        await conversation.wait_closed()

    async with upstream(script) as there, client_of(there.address, max_response_bytes=1000) as client:
        with pytest.raises(BadResponse, match="bad answer from http://127") as caught:
            await ask(client)
        await there.conversations[0].ended.wait()

    assert isinstance(caught.value, RemoteError)
    assert isinstance(caught.value, UnavailableError)


# Opening and closing


async def test_a_port_where_nobody_listens_is_connect_failed() -> None:
    address = f"127.0.0.1:{lasting_port()}"
    async with client_of(address) as client:
        with pytest.raises(ConnectFailed) as caught:
            await ask(client)

    assert str(caught.value) == f"no connection to http://{address}: Connection refused"


async def test_a_host_that_cannot_be_a_name_is_connect_failed() -> None:
    async with HttpClient(f"http://{'a' * 70}.example") as client:
        with pytest.raises(ConnectFailed, match="no connection to http://aaa"):
            await ask(client)


async def test_a_closed_client_refuses_and_closes_its_connections() -> None:
    async with upstream(echo_bodies) as there:
        client = client_of(there.address)
        await ask(client)

        await client.aclose()

        await there.conversations[0].ended.wait()
        with pytest.raises(trio.ClosedResourceError):
            await ask(client)


async def test_a_client_closed_during_a_request_does_not_keep_its_connection() -> None:
    async with upstream(echo_bodies) as there:
        client = client_of(there.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client)
            await wait_all_tasks_blocked(0.0)
            client.close()

        assert client.statistics()["idle"] == 0


async def test_credentials_of_the_url_are_sent_and_never_shown() -> None:
    seen: list[bytes | None] = []

    async def script(conversation: Conversation) -> None:
        seen.append(await conversation.request())
        await conversation.answer(b"")

    async with upstream(script) as there, HttpClient(f"http://me:s%20ecret@{there.address}/key") as client:
        await ask(client)

        assert seen[0] is not None
        assert b"authorization: Basic bWU6cyBlY3JldA==\r\n" in seen[0]
        assert "ecret" not in repr(client)
        assert "key" not in f"{client!r} {client.statistics()}"


@pytest.mark.parametrize("url", ["", "localhost:8551", "ws://host", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpClient(url)

    assert str(caught.value).startswith("URL: ")
    assert "\n" not in str(caught.value)


async def test_what_is_not_repeatable_goes_out_once_on_a_fresh_connection() -> None:
    requests = 0

    async def script(conversation: Conversation) -> None:
        nonlocal requests
        await conversation.request()
        await conversation.answer(b"")
        await conversation.request()
        requests += 1

    async with upstream(script) as there, client_of(there.address) as client:
        await ask(client)
        answer = await client.request("POST", None, (), b"x", timeout_s=60, repeatable=False)

        assert answer.status == 200
        assert requests == 0
        assert client.statistics()["opened"] == 2
