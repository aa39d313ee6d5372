"""A JSON-RPC client of its own: the tests must not speak to the appliance through the appliance's code."""

import http.client
import json
import time
import urllib.parse
from typing import Any

import jwt

IDLE_S = 2.0  # Node closes an idle connection after 5 s


class RpcError(Exception):
    """A JSON-RPC error answer; ``code`` as in the Engine API (-38001 is an unknown payload)."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        super().__init__(f"{method}: {error}")
        self.code: int = error["code"]


class RpcClient:
    """One keep-alive connection, as op-node holds one; with ``secret`` each request carries a fresh JWT."""

    def __init__(self, url: str, secret: bytes | None = None, timeout_s: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None
        self.url = url
        self._secret = secret
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        self._next_id = 1
        self._used_at = 0.0

    def call(self, method: str, *params: Any) -> Any:
        """The result; RpcError for an error answer, OSError or HTTPException when there was no answer."""
        body = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": list(params)}
        self._next_id += 1
        self._leave_idle_connection()
        try:
            self._connection.request("POST", "/", json.dumps(body), self._headers())
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        assert answer["id"] == body["id"]
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def close(self) -> None:
        self._connection.close()

    def _leave_idle_connection(self) -> None:
        """The other side may be closing it at this very moment; the next request opens a new one."""
        now = time.monotonic()
        if now - self._used_at > IDLE_S:
            self._connection.close()
        self._used_at = now

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            token = jwt.encode({"iat": int(time.time())}, self._secret, algorithm="HS256")
            headers["Authorization"] = f"Bearer {token}"
        return headers
