import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from appliance.devnet.flashblock_server import WAITING_MESSAGES, FlashblockServer


async def test_every_listener_gets_every_message_in_its_form(nursery: trio.Nursery) -> None:
    server = FlashblockServer()
    address = await nursery.start(server.run, "127.0.0.1:0")
    async with open_websocket_url(f"ws://{address}/ws") as one, open_websocket_url(f"ws://{address}/") as two:
        await server.wait_listeners(2)
        server.publish("text")
        server.publish(b"\x00binary")
        for connection in (one, two):
            assert await connection.get_message() == "text"
            assert await connection.get_message() == b"\x00binary"
        await one.send_message("nobody reads this")
        await one.ping()


async def test_listener_that_leaves_is_forgotten(nursery: trio.Nursery) -> None:
    server = FlashblockServer()
    address = await nursery.start(server.run, "127.0.0.1:0")
    async with open_websocket_url(f"ws://{address}/ws"):
        await server.wait_listeners(1)
    while server.listeners:
        await trio.testing.wait_all_tasks_blocked()
    server.publish("to nobody")


async def test_listener_that_does_not_read_is_cut_off(nursery: trio.Nursery) -> None:
    server = FlashblockServer()
    address = await nursery.start(server.run, "127.0.0.1:0")
    host, port = address.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await server.wait_listeners(1)
    for _ in range(WAITING_MESSAGES + 2):
        server.publish("x" * 1_000_000)
    assert server.listeners == 0
    await stream.aclose()


async def test_address_in_use_is_an_error() -> None:
    server = FlashblockServer()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.run, "127.0.0.1:0")
        with pytest.RaisesGroup(OSError, allow_unwrapped=True, flatten_subgroups=True):
            await nursery.start(FlashblockServer().run, address)
        nursery.cancel_scope.cancel()


async def test_garbage_in_place_of_a_handshake_disturbs_nobody(nursery: trio.Nursery) -> None:
    server = FlashblockServer()
    address = await nursery.start(server.run, "127.0.0.1:0")
    host, port = address.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    await stream.aclose()
    async with open_websocket_url(f"ws://{address}/ws") as connection:
        await server.wait_listeners(1)
        server.publish("still here")
        assert await connection.get_message() == "still here"


async def test_listeners_are_closed_when_the_server_ends() -> None:
    server = FlashblockServer()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.run, "127.0.0.1:0")
        async with open_websocket_url(f"ws://{address}/ws") as connection:
            await server.wait_listeners(1)
            nursery.cancel_scope.cancel()
    with pytest.raises(ConnectionClosed):
        await connection.get_message()
