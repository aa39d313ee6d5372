"""Bytes that two servers could take for different requests: no node sees any of them, and no second request begins."""

import msgspec
import pytest
import trio

from tests.lb.world import FakeNode, World, world

SECOND = b"GET /nodes HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


async def talk(w: World, data: bytes) -> bytes:
    """All that comes back until the server closes."""
    host, _, port = w.address.partition(":")
    back = b""
    async with await trio.open_tcp_stream(host, int(port)) as client:
        await client.send_all(data)
        with trio.fail_after(60):
            try:
                async for piece in client:
                    back += piece
            except trio.BrokenResourceError:
                pass  # closed over what it did not read
    return back


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n5c\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"content-length: 5, 5\r\n\r\nabcde",
        b"content-length: +5\r\n\r\nabcde",
        b"content-length : 5\r\n\r\nabcde",
        b"content-length: \r\n\r\nabcde",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"content-length: 5\r\nx: y\r\n transfer-encoding: chunked\r\n\r\nabcde",
        b"transfer-encoding: chunked\r\n\r\n5;a\nabcde\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nabcdeXX0\r\n\r\n",
        b"x: a\0b\r\ncontent-length: 5\r\n\r\nabcde",
    ],
)
async def test_an_ambiguous_request_is_refused_with_all_that_follows(head: bytes) -> None:
    node = FakeNode()
    async with world(node) as w:
        back = await talk(w, POST + head + SECOND)
        assert back.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
        assert back.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in back.lower()
    assert node.requests == []


async def test_pipelined_requests_are_answered_in_order_and_each_is_a_request_of_its_own() -> None:
    node = FakeNode()
    async with world(node) as w:
        bodies = [b'{"id":%d}' % number for number in range(20)]
        requests = [POST + b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
        back = await talk(w, b"".join(requests) + b"GET /nodes HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert back.count(b"HTTP/1.1 200 OK") == 21
        assert msgspec.json.decode(back.rpartition(b"\r\n\r\n")[2]) == [node.url]
    assert [request.body for request in node.requests] == bodies


async def test_what_a_client_says_in_its_head_or_trailers_does_not_reach_a_node() -> None:
    node = FakeNode()
    async with world(node) as w:
        head = b"transfer-encoding: chunked\r\nx-evil: 1\r\nconnection: close\r\n\r\n"
        body = b"2\r\n{}\r\n0\r\nx-fast-track: true\r\n\r\n"
        assert (await talk(w, POST + head + body)).startswith(b"HTTP/1.1 200 ")
        assert w.metric("lb_requests_total", priority="fast_track") == 0
    (request,) = node.requests
    assert dict(request.headers) == {
        "host": node.url.removeprefix("http://"),
        "accept": "application/json",
        "content-type": "application/json",
        "content-length": "2",
    }
