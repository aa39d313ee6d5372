"""What all simulated Engine API servers share: the port, JWT, JSON-RPC, faults and the record of calls."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from socket import socket
from typing import Any, Final, Self

import trio

from appliance.devnet import rpc
from appliance.devnet.faults import Fault, FaultSwitch, Role
from appliance.devnet.messages import INTERNAL_ERROR, RpcError, status
from appliance.devnet.recording import Call, CallRecord
from appliance.domain.errors import UnavailableError
from appliance.domain.payloads import PayloadStatus
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer, open_listener, serve_http
from appliance.wire import jwt

_LIMITS: Final = HttpLimits()
_JSON: Final = {"content-type": "application/json"}


class SimulatedServer:
    """An Engine API on a port of its own, or called in process by `call` with no port at all.

    Subclasses answer in `answer`. `secret` is the JWT secret, None accepts everyone; `slow_s` is the delay of
    Fault.SLOW in seconds.
    """

    role = Role.EL

    def __init__(self, *, name: str, secret: bytes | None, slow_s: float) -> None:
        self.name = name
        self.faults = FaultSwitch()
        self.calls = CallRecord()
        self.slow_s = slow_s
        self._secret = secret
        self._address: str | None = None
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._address}>"

    @property
    def url(self) -> str:
        """Where the Engine API is, after `run` has started with an address."""
        if self._address is None:
            raise RuntimeError(f"{self.name} has no port")
        return f"http://{self._address}"

    def statistics(self) -> dict[str, object]:
        """For a status page."""
        return {"calls": dict(self.calls.counts), "faults": sorted(self.faults.active)}

    async def answer(self, method: str, params: list[Any]) -> Any:
        """The result of one call when no fault forbids it; RpcError for an error answer."""
        raise NotImplementedError

    async def run(
        self,
        address: str | None = "127.0.0.1:0",
        *,
        stopping: trio.Event | None = None,
        task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stopping`; `started()` gives the client itself, its `url` known.

        Without an address only what goes on between calls is run, for `call` in process. Fault.DOWN cuts
        all connections; when it is switched off the same port is opened again.
        """
        stopping = trio.Event() if stopping is None else stopping
        async with trio.open_nursery() as self._nursery:
            try:
                await self._serve(address, stopping, task_status)
            finally:
                self._nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def serving(self, address: str | None = "127.0.0.1:0") -> AsyncIterator[Self]:
        """`run` as a context manager."""
        async with trio.open_nursery() as nursery:
            yield await nursery.start(self.run, address)
            nursery.cancel_scope.cancel()

    async def _serve(self, address: str | None, stopping: trio.Event, task_status: trio.TaskStatus[Self]) -> None:
        if address is None:
            task_status.started(self)
            await stopping.wait()
            return
        first = task_status
        while not stopping.is_set():
            address = await self._serve_while_up(address, stopping, first)
            first = trio.TASK_STATUS_IGNORED
            await self._wait_up_again(stopping)

    async def _serve_while_up(self, address: str, stopping: trio.Event, task_status: trio.TaskStatus[Self]) -> str:
        """Open the ports and serve until `stopping` or Fault.DOWN; the address as it was bound."""
        async with trio.open_nursery() as nursery:
            address = await self._open_ports(nursery, address, stopping)
            self._address = address
            task_status.started(self)  # also when it begins down: the caller needs to know the ports
            nursery.start_soon(self._cut_when_down, nursery.cancel_scope)
            await stopping.wait()
            nursery.cancel_scope.cancel()
        return address

    async def _open_ports(self, nursery: trio.Nursery, address: str, stopping: trio.Event) -> str:
        listener = open_listener(address)
        host, port = listener.getsockname()[:2]
        await nursery.start(self._serve_http, listener, stopping)
        return f"{host}:{port}"

    async def _serve_http(
        self,
        listener: socket,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await serve_http(
            self._handle,
            listener,
            limits=_LIMITS,
            stopping=stopping,
            drain_timeout_s=0.1,
            name=f"devnet {self.name}",
            task_status=task_status,
        )

    async def _cut_when_down(self, scope: trio.CancelScope) -> None:
        await self.faults.wait(Fault.DOWN, on=True)
        scope.cancel()

    async def _wait_up_again(self, stopping: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_after, stopping, nursery.cancel_scope)
            await self.faults.wait(Fault.DOWN, on=False)
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        if self._secret is not None:
            try:
                jwt.verify(self._secret, request.headers.get("authorization"), time.time())
            except jwt.Unauthorized as error:
                return HttpResponse(401, str(error).encode())
        if request.method != "POST":
            return HttpResponse(405, b"POST JSON-RPC here\n")
        return HttpResponse(200, await rpc.answer(request.body, self._answer), _JSON)

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """One call in process; RpcError as on the wire, UnavailableError while the server is down."""
        if Fault.DOWN in self.faults:
            raise UnavailableError(f"{self.name} is down")
        return await self._answer(method, list(params))

    async def _answer(self, method: str, params: list[Any]) -> Any:
        self.calls.add(Call(trio.current_time(), method, params))
        if Fault.HANGS in self.faults:
            await self.faults.wait(Fault.HANGS, on=False)
        if Fault.SLOW in self.faults and method.startswith("engine_"):
            await trio.sleep(self.slow_s)
        if Fault.ERRORS in self.faults:
            raise RpcError(INTERNAL_ERROR, f"{self.name} was told to answer with errors")
        if Fault.SYNCING in self.faults and method.startswith(("engine_forkchoice", "engine_newPayload")):
            return _syncing(method)
        return await self.answer(method, params)


def _syncing(method: str) -> dict[str, Any]:
    payload_status = status(PayloadStatus.SYNCING)
    if method.startswith("engine_newPayload"):
        return payload_status
    return {"payloadStatus": payload_status, "payloadId": None}
