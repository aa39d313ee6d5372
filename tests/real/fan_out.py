"""A fan-out edge as an operator starts it: `appliance run` with a log that was imported, and nothing before it."""

import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import brotli

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.flashlog.jsonl import ExportedEntry, to_line
from appliance.wire.flashblock import decode
from tests.real.processes import ChildProcess
from tests.support.ports import lasting_port

COMMAND = (sys.executable, "-m", "appliance")
CAPTURES = pathlib.Path(__file__).parents[1] / "data" / "flashblocks"


@dataclass(frozen=True)
class Published:
    """One entry of the log: its place and its JSON."""

    payload_id: str
    block_number: int
    index: int
    text: bytes


def real_flashblocks() -> list[Published]:
    """Two real blocks of two chains: eleven flashblocks, then five of the block that is current."""
    return [
        _published(line)
        for name in ("base-sepolia-33439826", "unichain-sepolia-35535698")
        for line in (CAPTURES / f"{name}.jsonl").read_bytes().splitlines()
    ]


def _published(line: bytes) -> Published:
    found = decode(line, Encoding.TEXT)
    assert isinstance(found, Flashblock)
    assert found.block_number is not None
    return Published(str(found.payload_id), found.block_number, found.index, line)


class FanOut:
    """The process. Of ``published`` the first block came from its builder as text, the second as brotli."""

    def __init__(self, folder: pathlib.Path, published: Sequence[Published], extra: str = "") -> None:
        self.address = f"127.0.0.1:{lasting_port()}"
        self._import(folder, published)
        config = folder / "appliance.toml"
        config.write_text(f"""
[store]
folder = "{folder / "data"}"

[flashlog]
retention_hours = 24

[fanout]
listen = "{self.address}"
{extra}
""")
        self.process = ChildProcess("appliance", [*COMMAND, "run", "--config", str(config)], folder / "output.log")

    def _import(self, folder: pathlib.Path, published: Sequence[Published]) -> None:
        lines = folder / "in.jsonl"
        lines.write_bytes(b"".join(_line(at, one, published[0].payload_id) for at, one in enumerate(published, 1)))
        database = folder / "data" / "flashlog.db"
        database.parent.mkdir()
        subprocess.run([*COMMAND, "log", "import", "--log", str(database), str(lines)], check=True, timeout=120.0)

    def url(self, query: str = "", path: str = "/ws") -> str:
        return f"ws://{self.address}{path}" + (f"?{query}" if query else "")

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(self._listens, timeout_s=60.0)

    def _listens(self) -> bool:
        host, _, port = self.address.partition(":")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            return False
        return True

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        return self.process.stop()


def _line(position: int, one: Published, text_payload: str) -> bytes:
    encoding = Encoding.TEXT if one.payload_id == text_payload else Encoding.BROTLI
    body = one.text if encoding is Encoding.TEXT else brotli.compress(one.text, quality=1)
    payload_id = PayloadId(one.payload_id)
    return to_line(
        ExportedEntry(position, payload_id, one.index, one.block_number, encoding, "builder", time.time(), body)
    )
