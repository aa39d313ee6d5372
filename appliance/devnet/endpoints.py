"""Where the parts of a devnet are reached: what an appliance's configuration needs to know of them."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.wire import jwt

ANY_PORT: Final = "127.0.0.1:0"  # the kernel chooses


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An Engine API, its JWT secret file, and the flashblock websocket where it has one."""

    name: str
    url: str
    secret_file: Path
    flashblocks_url: str | None = None


def secret_in(folder: Path, name: str) -> tuple[Path, bytes]:
    """The JWT secret file `<name>.jwt` in `folder`, made when it is not there, and its secret."""
    path = folder / f"{name}.jwt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")
    return path, jwt.load_secret(path)
