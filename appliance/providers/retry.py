"""What may be sent to another endpoint, and which answers are none. Pure.

A read may be sent again. `eth_sendRawTransaction` too: the same bytes cannot land twice. Everything else goes out at
most once, unless it is certain that it never left (no connection).

An answer is a result, or an error that is about the call: reverted, nonce too low, method not found. A rate limit or
an overload is about the endpoint. Of an internal error, or a block that is not there, one cannot tell: another
endpoint is asked, and what two of them say is the answer and held against neither.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from appliance.wire.jsonrpc import MALFORMED, NULL_ID, Response, RpcError

SEND_RAW_TRANSACTION: Final = "eth_sendRawTransaction"

# Reads by the beginning of their names; what is made by a filter lives in one endpoint alone.
_READ_PREFIXES: Final = (
    "eth_get",
    "net_",
    "web3_",
    "debug_trace",
    "debug_get",
    "trace_",
    "txpool_",
    "ots_",
    "erigon_get",
)
_READS: Final = frozenset(
    {
        "eth_accounts",
        "eth_baseFee",
        "eth_blobBaseFee",
        "eth_blockNumber",
        "eth_call",
        "eth_callBundle",
        "eth_callMany",
        "eth_chainId",
        "eth_coinbase",
        "eth_config",
        "eth_createAccessList",
        "eth_estimateGas",
        "eth_feeHistory",
        "eth_gasPrice",
        "eth_maxPriorityFeePerGas",
        "eth_protocolVersion",
        "eth_simulateV1",
        "eth_syncing",
        "rpc_modules",
    }
)
_OF_ONE_ENDPOINT: Final = frozenset({"eth_getFilterChanges", "eth_getFilterLogs", "eth_getWork"})

_LIMIT_EXCEEDED: Final = -32005  # EIP-1474; also for a query that finds too much, see _TOO_MUCH_FOUND
_RESOURCE_UNAVAILABLE: Final = -32002
_INTERNAL_ERROR: Final = -32603
_REVERTED: Final = 3
_TOO_MUCH_FOUND: Final = re.compile(r"results|block range|response size|logs matched", re.IGNORECASE)
_OVERLOADED: Final = re.compile(
    r"rate.?limit|too many requests|request limit|requests per|daily request|compute units|over capacity|throttl",
    re.IGNORECASE,
)
_NOT_THERE: Final = re.compile(r"(header|block) (was )?not found|unknown block|missing trie node", re.IGNORECASE)
_REFUSED_STATUSES: Final = frozenset({401, 402, 403, 404, 405, 410})


def is_read(method: str) -> bool:
    """Whether a call changes nothing, and any endpoint can answer it."""
    return method in _READS or (method.startswith(_READ_PREFIXES) and method not in _OF_ONE_ENDPOINT)


def may_repeat(method: str) -> bool:
    """Whether a call may be sent to a second endpoint though the first may have acted on it."""
    return method == SEND_RAW_TRANSACTION or is_read(method)


class Verdict(Enum):
    """What an endpoint's response is worth."""

    ANSWER = auto()
    DOUBTFUL = auto()
    """An error that may be the call's fault or the endpoint's."""
    TRANSIENT = auto()
    REFUSED = auto()
    """The endpoint does not take us at all: a wrong key or path."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and, where it is not an answer, why in words without addresses."""

    verdict: Verdict
    why: str = ""


def judge(status: int, response: Response | None) -> Judged:
    """Judge an HTTP status (200 for a websocket) with the JSON-RPC response in it, None when there was none."""
    if status in _REFUSED_STATUSES and (response is None or status != 404):
        return Judged(Verdict.REFUSED, f"HTTP {status}")
    if status == 429:
        return Judged(Verdict.TRANSIENT, "HTTP 429, rate limit")
    if response is None:
        return Judged(Verdict.TRANSIENT, "no JSON-RPC in the answer" if status == 200 else f"HTTP {status}")
    error = error_of(response)
    return Judged(Verdict.ANSWER) if error is None else _judge_error(error)


def error_of(response: Response) -> RpcError | None:
    """The error in a response, None when it is a result."""
    if bytes(response.error) in {b"", NULL_ID}:
        return None
    try:
        return msgspec.json.decode(response.error, type=RpcError)
    except MALFORMED:
        return RpcError(0, "an error of no known form")


def _judge_error(error: RpcError) -> Judged:
    text = f"{error.code} {error.message[:200]}"
    if error.code == _REVERTED or error.message.startswith("execution reverted"):
        return Judged(Verdict.ANSWER)
    if error.code == _LIMIT_EXCEEDED and not _TOO_MUCH_FOUND.search(error.message):
        return Judged(Verdict.TRANSIENT, text)
    if error.code in {429, _RESOURCE_UNAVAILABLE} or _OVERLOADED.search(error.message):
        return Judged(Verdict.TRANSIENT, text)
    if error.code == _INTERNAL_ERROR or _NOT_THERE.search(error.message):
        return Judged(Verdict.DOUBTFUL, text)
    return Judged(Verdict.ANSWER)


class Course:
    """The way of one call over the endpoints: each is asked once at most, until there is an answer."""

    def __init__(self, method: str) -> None:
        self.repeatable = may_repeat(method)
        self.answer: Response | None = None
        self.failures: dict[str, str] = {}
        self.blamed: list[str] = []
        """Whose doubtful errors turned out to be their own: another endpoint had a better answer."""
        self._asked: set[str] = set()
        self._doubtful: list[tuple[str, Response]] = []
        self.may_have_acted = False
        self.sent_before = False
        """Whether somebody may have acted on it before who said the last word got it."""
        self.speaker = ""
        """Whose word that is."""

    @property
    def tries(self) -> int:
        """Endpoints asked so far."""
        return len(self._asked)

    def choose(self, candidates: Sequence[str]) -> str | None:
        """The next endpoint to ask; None when there is an answer, nobody left, or it must not be sent again."""
        if self.answer is not None or (self.may_have_acted and not self.repeatable):
            return None
        name = next((each for each in candidates if each not in self._asked), None)
        if name is not None:
            self._asked.add(name)
        return name

    def not_sent(self, name: str, why: str) -> None:
        """It never left for ``name``."""
        self.failures[name] = why

    def lost(self, name: str, why: str) -> None:
        """It may have reached ``name``, and no answer came."""
        self.failures[name] = why
        self.may_have_acted = True

    def responded(self, name: str, judged: Judged, response: Response | None, *, resent: bool = False) -> None:
        """A response came from ``name``, which may have got the call twice (``resent``)."""
        if judged.verdict in (Verdict.ANSWER, Verdict.DOUBTFUL):
            self.speaker, self.sent_before = name, self.may_have_acted or resent
        self.may_have_acted = True
        match judged.verdict:
            case Verdict.ANSWER:
                self.answer = response
                self.blamed = [each for each, _ in self._doubtful]
            case Verdict.DOUBTFUL if response is not None:
                self._doubt(name, judged, response)
            case _:
                self.failures[name] = judged.why
                if not self.repeatable:
                    self.answer = response  # in the endpoint's own words: nobody else will be asked

    def last_word(self) -> Response | None:
        """When nobody is left to ask: the answer, or the doubtful error of the only one who said anything."""
        return self._doubtful[0][1] if self.answer is None and self._doubtful else self.answer

    def _doubt(self, name: str, judged: Judged, response: Response) -> None:
        """Two endpoints of one opinion are right."""
        self.failures[name] = judged.why
        code = error_code(response)
        if not self.repeatable or any(error_code(other) == code for _, other in self._doubtful):
            self.answer = response
        self._doubtful.append((name, response))


def error_code(response: Response) -> int | None:
    """The error's code; None for a result."""
    error = error_of(response)
    return None if error is None else error.code
