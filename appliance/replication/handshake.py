"""The first two messages of a link: who it is, and whether there will be one. Pure."""

from appliance.domain.errors import RemoteError
from appliance.domain.replicas import Cursor
from appliance.replication.membership import Membership
from appliance.wire.replication import VERSION, Hello, Welcome, proves, welcome_proof


class Refused(RemoteError):
    """There will be no link; the text is for the other side and for the log."""


def greet(own: Membership, nonce: bytes, cursor: Cursor | None, *, recovering: bool) -> Hello:
    """The follower's first message; ``nonce`` is random, and new for each link."""
    cursor = cursor or Cursor("", 0)
    return Hello(
        VERSION,
        own.host_id,
        own.log_id,
        nonce,
        own.follow_only,
        recovering,
        cursor.log_id,
        cursor.position,
        sorted(own.voters),
        own.quorum,
    )


def judge_hello(own: Membership, hello: Hello) -> None:
    """Raise `Refused` for somebody who is not to follow this host's log."""
    _check_version(hello.version)
    if hello.host_id == own.host_id:
        raise Refused(f"host_id {hello.host_id} is this host's own")
    if hello.log_id == own.log_id:
        raise Refused(f"log {hello.log_id} is this host's own: a copied folder?")
    if hello.follow_only and hello.host_id in own.voters:
        raise Refused(f"host_id {hello.host_id} votes here, and says follow_only")
    if not hello.follow_only and hello.host_id not in own.voters:
        raise Refused(f"host_id {hello.host_id} is not among the peers here, and does not say follow_only")


def answer(own: Membership, hello: Hello, appended: int, *, recovering: bool, another_log: bool) -> Welcome:
    """The source's answer to a follower that is welcome."""
    proof = welcome_proof(own.secret, hello.nonce, follower=hello.host_id, source=own.host_id, log_id=own.log_id)
    return Welcome(
        VERSION,
        own.host_id,
        own.log_id,
        proof,
        appended,
        own.follow_only,
        recovering,
        another_log,
        sorted(own.voters),
        own.quorum,
    )


def judge_welcome(own: Membership, welcome: Welcome, peer: str, nonce: bytes) -> None:
    """Raise `Refused` where another host answered, or one that does not know the secret."""
    _check_version(welcome.version)
    if welcome.host_id != peer:
        raise Refused(f"host_id {welcome.host_id} answered, expected {peer}")
    if welcome.follow_only:
        raise Refused(f"host_id {peer} votes here, and says follow_only")
    if not proves(welcome, own.secret, nonce, follower=own.host_id):
        raise Refused("it does not know the secret")
    if welcome.log_id == own.log_id:
        raise Refused(f"log {welcome.log_id} is this host's own: a copied folder?")


def _check_version(version: int) -> None:
    if version != VERSION:
        raise Refused(f"replication version {version}, this host speaks {VERSION}")
