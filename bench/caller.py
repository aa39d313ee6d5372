"""The op-node of the engine bench: one keep-alive connection, a ready request, and a clock around it."""

import socket
import time

import jwt

BUFFER_BYTES = 1 << 20
TIMEOUT_S = 60.0


class CallError(Exception):
    """The server hung up, or answered something else than 200 with a length."""


class Caller:
    """One connection to an Engine API."""

    def __init__(self, port: int, secret: bytes) -> None:
        self._secret = secret
        self._token = (0, "")
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def call(self, body: bytes) -> tuple[bytes, float]:
        """(answer's body, seconds from the first byte sent to the last one received)."""
        request = self._head(len(body)) + body
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._receive()
        return answer, time.perf_counter() - began

    def close(self) -> None:
        self._socket.close()

    def _head(self, length: int) -> bytes:
        second = int(time.time())
        if self._token[0] != second:
            self._token = (second, jwt.encode({"iat": second}, self._secret, algorithm="HS256"))
        return (
            "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._token[1]}\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    def _receive(self) -> bytes:
        data = bytearray()
        while b"\r\n\r\n" not in data:
            self._read_into(data)
        end = data.index(b"\r\n\r\n") + 4
        needed = end + _content_length(bytes(data[:end]))
        while len(data) < needed:
            self._read_into(data)
        return bytes(data[end:needed])

    def _read_into(self, data: bytearray) -> None:
        count = self._socket.recv_into(self._buffer)
        if not count:
            raise CallError("the server hung up")
        data += self._buffer[:count]


def _content_length(head: bytes) -> int:
    status, *lines = head.lower().split(b"\r\n")
    if b" 200 " not in status + b" ":
        raise CallError(f"answered {status.decode(errors='replace')}")
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise CallError("answered without content-length")
