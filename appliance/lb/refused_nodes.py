"""Kept nodes that this run does not use: listed with the reason, and removable, until somebody decides. Pure.

A node may have been kept by another build (one that could attest it), or its URL be none to this one. It stays in
state.db: a later build may take it up again.
"""

import hashlib
from dataclasses import dataclass

from appliance.domain.lb_nodes import AddedNode
from appliance.domain.node_uri import NodeUriError, parse_node_uri


@dataclass(frozen=True, slots=True)
class RefusedNode:
    """``shown`` is its name towards people: nothing of a URL that cannot be read, which may hold a key."""

    kept: AddedNode
    shown: str
    scheme: str | None
    reason: str

    @classmethod
    def of(cls, kept: AddedNode, reason: str) -> "RefusedNode":
        """Why ``kept`` is not used."""
        try:
            uri = parse_node_uri(kept.url)
        except NodeUriError:
            digest = hashlib.sha256(kept.url.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            return cls(kept, f"unreadable/…{digest}", None, reason)
        return cls(kept, uri.shown, uri.claim.scheme if uri.claim else None, reason)

    def is_named(self, text: str, shown: str) -> bool:
        """Whether an operator means it, by ``text`` as it was added or by ``shown``, the name in lists."""
        if text == self.kept.url or shown == self.shown:
            return True
        try:
            return parse_node_uri(text).url == self.kept.url
        except NodeUriError:
            return False

    def explain(self) -> dict[str, object]:
        """For the operator, with the keys of a node that is used."""
        return {
            "uri": self.shown,
            "source": "added",
            "workers": self.kept.workers,
            "in_flight": 0,
            "kept": True,
            "problem": None,
            "attested": self.scheme,
            "explain": {"state": "refused", "reason": self.reason, "capacity": 0},
        }
