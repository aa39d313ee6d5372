"""What one provider group is told by the configuration."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from appliance.providers.endpoint_health import Thresholds

_SHORTEST_SECRET: Final = 6
"""What is shorter is a word like "v3", and hiding it would garble what people read."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One endpoint. ``url`` may hold a key: it is shown to nobody, logs and status have name and origin."""

    name: str
    url: str = field(repr=False)

    @property
    def is_websocket(self) -> bool:
        """Whether calls go over one websocket, which also pushes heads."""
        return self.url.startswith(("ws://", "wss://"))

    def hide(self, text: str) -> str:
        """``text`` without what may be secret in the URL: an endpoint's error may repeat it."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> list[str]:
        parts = urlsplit(self.url)
        pieces = {parts.path, parts.query, *parts.path.split("/"), *parts.query.replace("=", "&").split("&")}
        pieces |= {parts.username or "", parts.password or ""}
        return sorted((piece for piece in pieces if len(piece) >= _SHORTEST_SECRET), key=len, reverse=True)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One `[[providers]]` table. Times in seconds.

    ``timeout_s`` is what one endpoint has for an answer, ``deadline_s`` all of them together. ``max_missed_heads`` is
    how many blocks are filled in for subscribers, and how deep a reorg may be. ``chain_id`` None: the endpoints say.
    """

    name: str
    endpoints: tuple[EndpointSettings, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)
    chain_id: int | None = None
    probe_interval_s: float = 5.0
    poll_interval_s: float = 1.0
    timeout_s: float = 5.0
    deadline_s: float = 15.0
    max_missed_heads: int = 128
    max_clients: int = 256
    drain_timeout_s: float = 5.0
    ping_interval_s: float = 5.0
    pong_timeout_s: float = 5.0
