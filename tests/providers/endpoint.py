"""A simulated L1 endpoint on a real socket: HTTP and websocket, with the faults of real ones."""

import itertools
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from appliance.net import websocket_handshake as handshake
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Connection, HttpLimits, HttpServer, Upgrade, open_listener
from appliance.net.websocket_handshake import NotAWebsocket
from appliance.net.websocket_server import ServerWebsocket, WebsocketLimits
from appliance.wire.jsonrpc import Request, decode_request, encode_error, encode_result
from tests.providers.chain import Block, Chain, encoded
from tests.support.ports import lasting_port

Answer = Callable[[Request], bytes | HttpResponse | None]
"""What a test says instead of the endpoint: an answer's bytes, a whole HTTP response, None for its own answer."""


class Endpoint:
    """Serves ``chain`` up to `head`. It keeps its port when it is killed and started again."""

    def __init__(self, name: str, chain: Chain, path: str = "/v1/very-secret-key") -> None:
        self.name = name
        self.chain = chain
        self.calls: list[Request] = []
        self.mempool: dict[str, dict[str, Any]] = {}
        self.answer: Answer = lambda _request: None
        self.refuses_subscriptions = False
        self.frozen_at: int | None = None
        self.chain_id = 1
        self._path = path
        self._hanging = trio.Event()
        self._hanging.set()
        self._port = lasting_port()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._websockets: dict[ServerWebsocket, dict[str, str]] = {}
        self._ids = itertools.count(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}{self._path}"

    @property
    def connections(self) -> int:
        return len(self._websockets)

    def methods(self, *which: str) -> list[str]:
        """The methods asked so far, those of ``which`` only if given."""
        return [call.method for call in self.calls if not which or call.method in which]

    async def start(self, nursery: trio.Nursery) -> None:
        """Listen; on the same port as before when it was killed."""
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        listener = open_listener(f"127.0.0.1:{self._port}")
        await nursery.start(self._run, listener)

    async def kill(self) -> None:
        """All connections end, and new ones are refused."""
        self._scope.cancel()
        await self._ended.wait()

    def hang(self) -> None:
        """Take connections and bytes, and answer nothing: as SIGSTOP."""
        self._hanging = trio.Event()

    def resume(self) -> None:
        self._hanging.set()

    @property
    def head(self) -> Block:
        """The newest block that it shows."""
        newest = len(self.chain.canonical) - 1
        return self.chain.canonical[newest if self.frozen_at is None else min(newest, self.frozen_at)]

    def freeze(self) -> None:
        """Learn of no further block."""
        self.frozen_at = self.head.number

    def announce(self, *blocks: Block) -> None:
        """Push heads to who subscribed."""
        for block in blocks or (self.head,):
            self._push("newHeads", block.header())

    def announce_pending(self, transaction_hash: str) -> None:
        self._push("newPendingTransactions", transaction_hash)

    def _push(self, kind: str, result: object) -> None:
        if not self._hanging.is_set():
            return
        for websocket, subscriptions in list(self._websockets.items()):
            for identifier, subscribed in subscriptions.items():
                if subscribed == kind:
                    params = {"subscription": identifier, "result": result}
                    websocket.send(encoded({"jsonrpc": "2.0", "method": "eth_subscription", "params": params}))

    def subscribed(self, kind: str) -> bool:
        """Whether there is a subscription of this kind now."""
        return any(kind in each.values() for each in self._websockets.values())

    async def _run(self, listener: socket.socket, *, task_status: trio.TaskStatus[HttpServer]) -> None:
        server = HttpServer(
            self._handle, listener, limits=HttpLimits(), stopping=trio.Event(), drain_timeout_s=1, name=self.name
        )
        try:
            with self._scope:
                await server.run(task_status=task_status)
        finally:
            self._ended.set()

    async def _handle(self, request: HttpRequest) -> HttpResponse | Upgrade:
        assert request.path == self._path
        await self._hanging.wait()
        if request.upgrade:
            accepted = handshake.accept(request.headers)
            assert not isinstance(accepted, NotAWebsocket)
            return Upgrade(accepted, self._converse)
        answer = self._respond(decode_request(request.body), {})
        if isinstance(answer, HttpResponse):
            return answer
        return HttpResponse(200, answer, (("content-type", "application/json"),))

    async def _converse(self, connection: Connection, data: bytes) -> None:
        websocket = ServerWebsocket(connection, data, WebsocketLimits())
        subscriptions = self._websockets[websocket] = {}

        async def handle(message: bytes) -> None:
            await self._hanging.wait()
            answer = self._respond(decode_request(message), subscriptions)
            websocket.send(answer.body if isinstance(answer, HttpResponse) else answer)

        try:
            await websocket.run(handle)
        finally:
            del self._websockets[websocket]

    def _respond(self, request: Request, subscriptions: dict[str, str]) -> bytes | HttpResponse:
        self.calls.append(request)
        said = self.answer(request)
        if said is not None:
            return said
        identifier = bytes(request.id)
        params = msgspec.json.decode(request.params)
        if request.method == "eth_subscribe" and self.refuses_subscriptions:
            return encode_error(identifier, -32601, "the method eth_subscribe does not exist")
        if request.method == "eth_subscribe":
            subscription = hex(next(self._ids))
            subscriptions[subscription] = params[0]
            return encode_result(identifier, encoded(subscription))
        if request.method == "eth_unsubscribe":
            subscriptions.pop(params[0], None)
            return encode_result(identifier, b"true")
        return encode_result(identifier, encoded(self._result(request.method, params)))

    def _result(self, method: str, params: list[Any]) -> object:
        match method:
            case "eth_chainId":
                return hex(self.chain_id)
            case "eth_blockNumber":
                return hex(self.head.number)
            case "eth_getBlockByNumber":
                return self.head.block()
            case "eth_getBlockByHash":
                block = self.chain.known.get(params[0])
                return block.block() if block else None
            case "eth_getLogs":
                return self.chain.known[params[0]["blockHash"]].log_entries()
            case "eth_sendRawTransaction":
                transaction_hash = "0x" + f"{len(self.mempool) + 1:064x}"
                self.mempool[transaction_hash] = {"from": "0xaa", "nonce": hex(len(self.mempool)), "blockNumber": None}
                return transaction_hash
            case "eth_getTransactionByHash":
                return self.mempool.get(params[0])
            case "eth_getTransactionCount":
                return "0x0"
        return f"{self.name} {method}"
