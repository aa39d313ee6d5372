"""Websocket clients that others wrote, each as one subscription: Python's `websockets`, Node's `ws`, Chromium."""

import base64
import http.server
import json
import pathlib
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import brotli
import pytest
from websockets.sync.client import connect

from tests.real.nodes import FOLDER, install
from tests.real.processes import ChildProcess

TIMEOUT_S = 60.0
PAGES = FOLDER / "pages"
DEFLATE = "permessage-deflate"
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Message:
    """One data message as the client's library gave it."""

    binary: bool
    data: bytes

    @property
    def text(self) -> bytes:
        """The flashblock's JSON: a binary message is brotli."""
        return brotli.decompress(self.data) if self.binary else self.data


@dataclass(frozen=True)
class Received:
    """A subscription from its handshake to its close: ``extensions`` negotiated, the close that came back."""

    extensions: str
    messages: list[Message]
    code: int
    reason: str

    @property
    def texts(self) -> list[bytes]:
        return [message.text for message in self.messages]

    @property
    def deflated(self) -> bool:
        return DEFLATE in self.extensions


Subscribe = Callable[[str, int, bool], Received]
"""(URL, count, whether to offer deflate): read ``count`` messages, then close with 1000 and wait for the answer."""


def subscribe_with_websockets(url: str, count: int, deflate: bool) -> Received:
    compression = "deflate" if deflate else None
    with connect(url, compression=compression, open_timeout=TIMEOUT_S, max_size=None, proxy=None) as connection:
        came = [connection.recv(timeout=TIMEOUT_S) for _ in range(count)]
        messages = [Message(isinstance(one, bytes), one if isinstance(one, bytes) else one.encode()) for one in came]
        extensions = ", ".join(extension.name for extension in connection.protocol.extensions)
        connection.close(1000)
        return Received(extensions, messages, connection.close_code or 0, connection.close_reason or "")


def subscribe_with_node(url: str, count: int, deflate: bool) -> Received:
    node = shutil.which("node")
    assert node is not None, "`ws` needs Node, and node is not installed"
    install()
    command = [node, str(PAGES / "subscriber.mjs"), url, str(count), json.dumps(deflate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return _received(json.loads(done.stdout))


def _received(found: dict[str, Any]) -> Received:
    messages = [Message(one["binary"], base64.b64decode(one["data"])) for one in found["messages"]]
    return Received(found["extensions"], messages, found["code"], found["reason"])


class _PageServer(http.server.ThreadingHTTPServer):
    """Serves the pages on a free port, and takes what they post."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), partial(_PageHandler, directory=str(PAGES)))
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()


class _PageHandler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, _PageServer)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()
        self.server.results.put(json.loads(body))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: a failing test shows what came instead."""


def chromium() -> str:
    """Its path; the test is skipped where it is not installed."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed here (on Debian: apt-get install chromium)")
    return path


def subscribe_with_chromium(folder: pathlib.Path, url: str, count: int, _deflate: bool) -> Received:
    """A browser always offers deflate. ``folder`` gets its profile and its output."""
    profile = folder / f"profile-{len(list(folder.glob('profile-*')))}"
    with _PageServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        query = urlencode({"url": url, "count": count})
        page = f"http://127.0.0.1:{server.server_address[1]}/subscriber.html?{query}"
        command = [chromium(), *CHROMIUM_FLAGS, f"--user-data-dir={profile}", page]
        browser = ChildProcess("chromium", command, folder / "chromium.log")
        try:
            with browser:
                return _received(server.results.get(timeout=TIMEOUT_S))
        except queue.Empty:
            raise AssertionError(f"the page did not report:\n{browser.text()[-2000:]}") from None
        finally:
            server.shutdown()
