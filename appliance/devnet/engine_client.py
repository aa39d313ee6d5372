"""How the simulated op-node calls an engine: the same methods over HTTP with JWT, or in process."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from appliance.devnet import rpc
from appliance.domain.errors import UnavailableError
from appliance.net.http_client import HttpClient
from appliance.wire import jwt


class EngineClient(Protocol):
    """Whoever answers Engine API calls: RpcError for an error answer, UnavailableError for none."""

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """The result of one call."""


class HttpEngineClient:
    """An Engine API behind a URL. Each request carries a token with a fresh `iat`."""

    def __init__(self, client: HttpClient, secret: bytes, *, timeout_s: float = 5.0) -> None:
        self._client = client
        self._secret = secret
        self._timeout_s = timeout_s

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """One call; the deadline is `timeout_s` in seconds."""
        headers = {
            "authorization": f"Bearer {jwt.sign(self._secret, time.time())}",
            "content-type": "application/json",
        }
        body = rpc.encode_call(method, list(params))
        response = await self._client.request("POST", None, headers, body, timeout_s=self._timeout_s)
        if response.status != 200:
            raise UnavailableError(f"{method}: HTTP {response.status} {response.body[:80]!r}")
        return rpc.decode_answer(response.body)


@asynccontextmanager
async def open_engine_client(url: str, secret: bytes, *, timeout_s: float = 5.0) -> AsyncIterator[HttpEngineClient]:
    """A client whose connections are closed at the end."""
    async with HttpClient(url, max_connections=4) as client:
        yield HttpEngineClient(client, secret, timeout_s=timeout_s)
