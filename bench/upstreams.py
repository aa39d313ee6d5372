"""An execution client and a builder that answer at once, with ready bytes (`python -m bench.upstreams ROLE`).

One process is one of them, in one epoll loop without an HTTP library, so that what is measured through the
appliance is the appliance's. It believes everything: every payload is VALID, every getPayload is answered
with a block of the size that was asked for. The builder also has a websocket: when it is asked to build,
it sends one flashblock with index 0, which names its payload.

Requests: ``size`` (bytes of a getPayload answer), ``stream`` (bytes of a flashblock, 0 for none),
``published`` (answers the times of the flashblocks sent so far), ``hang`` (take requests and answer none),
``delay`` (seconds before each answer, everybody waits), ``forkchoices`` (answers how many came, and the last head).
"""

import base64
import hashlib
import json
import os
import re
import select
import socket
import sys
import time
from typing import Any

from bench.blocks import BUILDER, EL, PayloadTemplate
from bench.children import say
from bench.frames import PING, client_payload, server_frame, server_pong
from bench.messages import flashblock

BUFFER_BYTES = 1 << 20
SEND_TIMEOUT_S = 10.0
FIRST_ID = {EL: 0xE000_0000_0000_0001, BUILDER: 1}
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)
_METHOD = re.compile(rb'"method" *: *"([^"]+)"')
_ID = re.compile(rb'"id" *: *("[^"]*"|[0-9]+|null)')
_BLOCK_HASH = re.compile(rb'"blockHash" *: *"(0x[0-9a-f]{64})"')
_TIMESTAMP = re.compile(rb'"timestamp" *: *"(0x[0-9a-f]+)"')
_HEAD = re.compile(rb'"headBlockHash" *: *"(0x[0-9a-f]{64})"')
_PAYLOAD_ID = re.compile(rb'"(0x[0-9a-f]{16})"')
KEPT_BUILDS = 64
_EDGE = 1024  # the envelope is at the begin or at the end of a body


class Upstream:
    """Answers bodies."""

    def __init__(self, role: str) -> None:
        self._next_id = FIRST_ID[role]
        self._role = role
        self._template = PayloadTemplate(role, 0)
        self._timestamps: dict[int, bytes] = {}  # of the last builds
        self.forkchoices = 0
        self.head = b""

    def resize(self, size: int) -> None:
        """How large a getPayload answer is from now on."""
        self._template = PayloadTemplate(self._role, size)

    def answer(self, body: bytes) -> tuple[bytes, int | None]:
        """(JSON-RPC answer, number of the build that it began)."""
        edge = body if len(body) <= 2 * _EDGE else body[:_EDGE] + body[-_EDGE:]
        method, identifier = _METHOD.search(edge), _ID.search(edge)
        if method is None or identifier is None:
            return b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"not a request"}}', None
        result, build = self._result(method.group(1), body)
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (identifier.group(1), result), build

    def _result(self, method: bytes, body: bytes) -> tuple[bytes, int | None]:
        if method.startswith(b"engine_forkchoiceUpdated"):
            return self._forkchoice_updated(body)
        if method.startswith(b"engine_getPayload"):
            return self._get_payload(body), None
        if method.startswith(b"engine_newPayload"):
            found = _BLOCK_HASH.search(body)
            return b'{"status":"VALID","latestValidHash":"%b","validationError":null}' % (
                found.group(1) if found else b""
            ), None
        if method == b"eth_getBlockByNumber":
            return b'{"number":"0x1","timestamp":"%b"}' % hex(int(time.time())).encode(), None
        return b"null", None

    def _forkchoice_updated(self, body: bytes) -> tuple[bytes, int | None]:
        head = _HEAD.search(body)
        self.forkchoices, self.head = self.forkchoices + 1, head.group(1) if head else b""
        status = b'{"payloadStatus":{"status":"VALID","latestValidHash":null,"validationError":null},"payloadId":'
        timestamp = _TIMESTAMP.search(body)
        if timestamp is None:
            return status + b"null}", None
        build, self._next_id = self._next_id, self._next_id + 1
        self._timestamps[build] = timestamp.group(1)
        self._timestamps.pop(build - KEPT_BUILDS, None)
        return status + b'"0x%016x"}' % build, build

    def _get_payload(self, body: bytes) -> bytes:
        named = _PAYLOAD_ID.search(body)
        build = int(named.group(1), 16) if named else 0
        return self._template.fill(build, self._timestamps.get(build, b"0x0"))


class Connection:
    """One peer: the bytes that have come, until they are a whole request."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.subscribed = False
        self._data = bytearray()
        self._needed = 0  # bytes of head and body together, 0 until the head is whole

    def feed(self, data: memoryview) -> tuple[bytes, bytes] | None:
        """(head, body) when both are whole. One request at a time: neither peer pipelines."""
        self._data += data
        if not self._needed:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = _LENGTH.search(self._data, 0, end)
            self._needed = end + 4 + (int(length.group(1)) if length else 0)
        if len(self._data) < self._needed:
            return None
        head, _, body = bytes(self._data[: self._needed]).partition(b"\r\n\r\n")
        del self._data[: self._needed]
        self._needed = 0
        return head, body


class Server:
    """The loop: peers and requests on one epoll."""

    def __init__(self, role: str) -> None:
        self._upstream = Upstream(role)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._requests = b""
        self._stream_bytes = 0
        self._published: dict[int, float] = {}
        self._hangs = False
        self._delay_s = 0.0

    def run(self) -> None:
        """Until stdin ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        say(ready=True, port=self._listener.getsockname()[1])
        while True:
            for descriptor, _ in self._poll.poll():
                connection = self._connections.get(descriptor)
                if connection is not None:
                    self._read(connection)
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif not self._read_requests():
                    return

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.settimeout(SEND_TIMEOUT_S)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = Connection(accepted)
        self._poll.register(accepted.fileno(), select.EPOLLIN)

    def _read(self, connection: Connection) -> None:
        try:
            count = connection.socket.recv_into(self._buffer)
            if count:
                self._serve(connection, self._buffer[:count])
                return
        except OSError:
            pass
        self._poll.unregister(connection.socket.fileno())
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _serve(self, connection: Connection, data: memoryview) -> None:
        if connection.subscribed:
            opcode, payload = client_payload(bytes(data))
            if opcode == PING:
                connection.socket.sendall(server_pong(payload))
            return
        request = connection.feed(data)
        if request is None:
            return
        head, body = request
        key = _KEY.search(head)
        if key is None:
            self._answer(connection, body)
        else:
            connection.socket.sendall(_switching(key.group(1)))
            connection.subscribed = True

    def _answer(self, connection: Connection, body: bytes) -> None:
        if self._hangs:
            return
        time.sleep(self._delay_s)
        answer, build = self._upstream.answer(body)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        connection.socket.sendall(head + answer)
        if build is not None:
            self._publish(build)

    def _publish(self, build: int) -> None:
        """The flashblock of a build to whoever listens."""
        listeners = [one for one in self._connections.values() if one.subscribed]
        if not self._stream_bytes or not listeners:
            return
        frame = server_frame(flashblock(f"0x{build:016x}", 0, build, self._stream_bytes))
        self._published[build - 1] = time.monotonic()
        for one in listeners:
            one.socket.sendall(frame)

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self._requests += data
        while b"\n" in self._requests:
            line, _, self._requests = self._requests.partition(b"\n")
            say(**self._obey(json.loads(line)))
        return bool(data)

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "size":
            self._upstream.resize(request["bytes"])
        elif request["do"] == "stream":
            self._stream_bytes = request["bytes"]
        elif request["do"] == "published":
            return {"published": sorted(self._published.items())}
        elif request["do"] == "hang":
            self._hangs = True
        elif request["do"] == "delay":
            self._delay_s = request["seconds"]
        elif request["do"] == "forkchoices":
            return {"count": self._upstream.forkchoices, "head": self._upstream.head.decode()}
        return {}


def _switching(key: bytes) -> bytes:
    """RFC 6455, 4.2.2."""
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


if __name__ == "__main__":
    Server(sys.argv[1]).run()
