"""The seam for attested nodes: who checks the evidence in a node's TLS certificate.

Today no verifier is built in, so that every attested node is refused: a node that claims to be attested is never
talked to without the proof. A build that can verify passes its verifiers to `LoadBalancer`.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from appliance.domain.errors import ConfigError, RemoteError, UnavailableError
from appliance.domain.node_uri import Claim, NodeUri


class AttestationFailed(RemoteError, UnavailableError):
    """A node's evidence does not prove what its URI claims: nothing was sent to it."""


class AttestationUnavailable(ConfigError):
    """Nobody here can check the evidence of such nodes, so that none is used."""


class EvidenceVerifier(Protocol):
    """Checks the evidence of one scheme."""

    def verify(self, certificate: bytes, claim: Claim) -> None:
        """Raise `AttestationFailed` unless the peer's certificate (DER) proves ``claim``.

        Called in a thread on every new TLS connection, after the handshake (which proves that the peer holds the
        certificate's key) and before the first byte of a request. No certificate authority has been asked: the
        evidence is the only proof.
        """


Verifiers = Mapping[str, EvidenceVerifier]
"""By scheme: "SEV", "SGX"."""

NO_VERIFIERS: Final[Verifiers] = {}


def verifier_for(uri: NodeUri, verifiers: Verifiers) -> EvidenceVerifier | None:
    """Who has to verify ``uri``; None for a node that claims nothing. Raises `AttestationUnavailable`."""
    if uri.claim is None:
        return None
    verifier = verifiers.get(uri.claim.scheme)
    if verifier is None:
        raise AttestationUnavailable(f"attestation of {uri.claim.scheme} nodes is not available in this build")
    return verifier
