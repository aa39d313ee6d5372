"""Reading the outcome of a call: the body of an answer, or the reason why there is none."""

from appliance.domain.errors import UnavailableError
from appliance.engine.events import EL, Answered, Command, Failed, Produced, Reply, Requested
from appliance.wire.engine_answers import BuiltPayload, decode_payload
from appliance.wire.jsonrpc import INTERNAL_ERROR, encode_error
from appliance.wire.scrutiny import check_fields, check_size

Outcome = Answered | Failed

_SNIPPET = 120  # characters of an error page that go into a log line or to op-node


def body_of(outcome: Outcome) -> bytes:
    """The body of an answer with HTTP status 200; raises UnavailableError with the reason otherwise."""
    if isinstance(outcome, Failed):
        raise UnavailableError(outcome.reason)
    if outcome.status != 200:
        text = outcome.body[:_SNIPPET].decode("utf-8", "replace").strip()
        raise UnavailableError(f"{outcome.origin}: HTTP {outcome.status} {text}".rstrip())
    return outcome.body


def builders_block(outcome: Outcome, version: int) -> BuiltPayload:
    """The block in a builder's answer to getPayload; raises UnavailableError, DecodeError or RefusedError.

    Unlike the EL, a builder is not trusted to mean one thing by what it writes (scrutiny.py).
    """
    body = body_of(outcome)
    check_size(body)
    payload = decode_payload(body, version)
    if payload.skeleton is None:
        check_fields(body, payload.transactions)
    else:
        check_fields(payload.skeleton, ())
    return payload


def apology(request: Requested, reason: object) -> Reply:
    """op-node's answer when the EL has none for it: JSON-RPC -32603 (see the multiplexer's docstring)."""
    body = encode_error(request.identifier, INTERNAL_ERROR, str(reason))
    return Reply(request.ticket, body, failure=str(reason))


def unanswered(request: Requested, error: UnavailableError) -> list[Command]:
    """What follows when the EL has not answered ``request``: the apology, and a bad word about the EL."""
    return [apology(request, error), Produced(EL, ok=False, reason=str(error))]
