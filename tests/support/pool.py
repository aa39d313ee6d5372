"""The configuration of an appliance that is nothing but a builder for others."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from appliance.devnet.endpoints import Endpoint
from appliance.devnet.network import Devnet
from appliance.supervisor import Appliance
from tests.support.hosts import PATIENCE_MS


@dataclass
class PoolFiles:
    """Its folder; ``fixed`` is the port that it listens on, 0 for any; ``deadline_ms`` that of its builders."""

    folder: Path
    devnet: Devnet
    fixed: int = 0
    deadline_ms: int = 100

    @property
    def secret(self) -> Path:
        """What those who use it sign with."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "pool.jwt"
        if not path.exists():
            path.write_text(secrets.token_hex(32))
        return path

    def write(self) -> Path:
        """The configuration file."""
        lines = [
            '[store]\nfolder = "data"\n[engine]\nhealth_check_interval_s = 0.5',
            f"builder_deadline_ms = {self.deadline_ms}",
            f'[engine.builder_listen]\nlisten = "127.0.0.1:{self.fixed}"\njwt_secret_file = "{self.secret}"',
            '[flashblocks]\nvalidation = "structural"',
            '[fanout]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"',
            *map(_builder, self.devnet.builder_endpoints),
        ]
        path = self.folder / "pool.toml"
        path.write_text("\n".join(lines))
        return path

    def endpoint(self, pool: Appliance) -> Endpoint:
        """How others reach it: as any builder with flashblocks."""
        url, stream = pool.listening["builder_listen"], pool.listening["fanout"]
        return Endpoint("pool", f"http://{url}", self.secret, f"ws://{stream}/ws")


def _builder(endpoint: Endpoint) -> str:
    keys = {
        "name": endpoint.name,
        "url": endpoint.url,
        "jwt_secret_file": str(endpoint.secret_file),
        "flashblocks_url": endpoint.flashblocks_url,
        "timeout_ms": PATIENCE_MS,
    }
    return "[[engine.builders]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
