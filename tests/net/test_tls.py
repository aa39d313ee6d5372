"""https and wss, with a certificate of our own."""

import pytest
import trio

from appliance.net.errors import ConnectFailed, TimedOut
from appliance.net.http_client import HttpClient
from appliance.net.opening import transport_of
from tests.net.upstreams import Conversation, Upstream, client_tls, echo_bodies, upstream


def tls_client(there: Upstream) -> HttpClient:
    return HttpClient(f"https://{there.address}", ssl_context=client_tls())


async def test_requests_go_over_tls_and_the_connection_is_kept() -> None:
    async with upstream(echo_bodies, tls=True) as there, tls_client(there) as client:
        for size in (0, 10, 1_000_000):
            response = await client.request("POST", body=bytes(size), timeout_s=60)
            assert response.body == bytes(size)

        assert len(there.conversations) == 1


async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    async with upstream(echo_bodies, tls=True) as there, HttpClient(f"https://{there.address}") as client:
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            await client.request("GET", timeout_s=60)


async def test_a_server_that_speaks_no_tls_is_connect_failed() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.stream.receive_some()
        await conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with upstream(script) as there, tls_client(there) as client:
        with pytest.raises(ConnectFailed, match="no TLS with https://127"):
            await client.request("GET", timeout_s=60)


async def test_the_connect_deadline_covers_the_tls_handshake(mock_clock: trio.testing.MockClock) -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.stream.receive_some()
        mock_clock.jump(0.05)
        await conversation.wait_closed()

    async with upstream(silent) as there:
        url = f"https://{there.address}"
        async with HttpClient(url, ssl_context=client_tls(), connect_timeout_s=0.05) as client:
            with pytest.raises(ConnectFailed, match="within 50 ms"):
                await client.request("GET", timeout_s=60)
            await there.conversations[0].ended.wait()


async def test_a_deadline_within_the_tls_handshake_closes_the_connection(mock_clock: trio.testing.MockClock) -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.stream.receive_some()
        mock_clock.jump(0.05)
        await conversation.wait_closed()

    async with upstream(silent) as there, tls_client(there) as client:
        with pytest.raises(TimedOut):
            await client.request("GET", timeout_s=0.05)
        await there.conversations[0].ended.wait()


async def test_a_kept_tls_connection_that_the_upstream_closed_is_replaced() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)

    async with upstream(script, tls=True) as there, tls_client(there) as client:
        for number in range(3):
            assert (await client.request("GET", timeout_s=60)).body == b"%d" % number
            await there.conversations[number].ended.wait()
            await trio.testing.wait_all_tasks_blocked()


async def send_in_one_segment(conversation: Conversation, *records: bytes) -> None:
    """Each of ``records`` is a TLS record of its own, and the client's one read brings them all."""
    tcp, held = transport_of(conversation.stream), trio.testing.MemorySendStream()
    assert isinstance(conversation.stream, trio.SSLStream)
    conversation.stream.transport_stream = held  # type: ignore[assignment]  # the kernel holds nothing back for long
    for record in records:
        await conversation.send(record)
    conversation.stream.transport_stream = tcp
    await tcp.send_all(held.get_data_nowait())


@pytest.mark.parametrize(
    "behind",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign", b"HTTP/1.1 408 \r\n", b"\0"],
    ids=["an answer", "half a head", "garbage"],
)
async def test_a_second_record_behind_the_answer_is_never_taken_for_the_next_answer(behind: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        body = b"%d" % conversation.number
        await send_in_one_segment(conversation, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body, behind)
        await conversation.wait_closed()

    async with upstream(script, tls=True) as there, tls_client(there) as client:
        for number in range(3):
            assert (await client.request("GET", timeout_s=60)).body == b"%d" % number
            assert client.statistics()["idle"] == 0


async def test_session_tickets_are_no_reason_to_close() -> None:
    """TLS 1.3 servers send them behind the handshake, so they may come with the first answer."""
    async with upstream(echo_bodies, tls=True) as there, tls_client(there) as client:
        for _ in range(20):
            await client.request("POST", body=b"x", timeout_s=60)
            assert client.statistics()["idle"] == 1

        assert len(there.conversations) == 1


async def test_looking_behind_the_answer_takes_no_time() -> None:
    """A deadline that passes in that very turn of the loop does not cost the answer that is here."""

    async with upstream(echo_bodies, tls=True) as there, tls_client(there) as client:
        await client.request("POST", body=b"x", timeout_s=60)
        (connection,) = client._pool.clear()
        with trio.CancelScope() as scope:
            scope.cancel()
            drained = await connection._wire.is_drained()

        assert drained
        connection.close()
