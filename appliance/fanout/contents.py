"""What a flashblock touches: addresses, topics, and its transactions' bytes, looked for once in each. Pure.

Filters of websocket-proxy look at these places of the message (REFERENCE, section 4); so do ours:

    metadata.new_account_balances   its keys are addresses
    metadata.receipts               each log's address and topics, in receipts that are tagged outside
                                    ({"Eip1559": {"logs": []}}) and inside ({"type": "0x2", "logs": []})
    diff.transactions               an address matches where its 20 bytes stand anywhere in a transaction: as `to`,
                                    in calldata, in an access list, as a deposit's `from` (a signer is not in them)

Metadata is opaque and differs by chain and version: what is absent or has another form contributes nothing.
"""

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, KeysView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import msgspec

ADDRESS_BYTES: Final = 20
TOPIC_BYTES: Final = 32

# Up to so many addresses are looked for one by one, 0.8 us for each and KB of transactions (5 us in the worst case, of
# bytes that nearly match for long); more of them all together, which costs 115 us a KB whatever their number.
_ONE_BY_ONE: Final = 100
# One step of looking, some 0.2 ms.
_PIECE_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Contents:
    """What can be known without knowing what is looked for."""

    addresses: frozenset[bytes]
    topics: frozenset[bytes]
    transactions: tuple[bytes, ...]

    @property
    def transaction_bytes(self) -> int:
        """Bytes of all transactions."""
        return sum(map(len, self.transactions))


NOTHING: Final = Contents(frozenset(), frozenset(), ())


def extract(text: bytes) -> Contents:
    """The contents of a flashblock's JSON text; nothing where it is none. 31 KB take some 50 us."""
    try:
        message = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    metadata = _table(_table(message).get("metadata"))
    logs = list(_logs(metadata.get("receipts")))
    addresses = itertools.chain(_table(metadata.get("new_account_balances")), (log.get("address") for log in logs))
    topics = itertools.chain.from_iterable(_items(log.get("topics")) for log in logs)
    transactions = _items(_table(_table(message).get("diff")).get("transactions"))
    return Contents(
        frozenset(_bytes_of(addresses, ADDRESS_BYTES)),
        frozenset(_bytes_of(topics, TOPIC_BYTES)),
        tuple(_bytes_of(transactions)),
    )


def _logs(receipts: object) -> Iterator[dict[str, Any]]:
    for receipt in _table(receipts).values() if isinstance(receipts, dict) else _items(receipts):
        fields = _table(receipt)
        tagged = [_table(value).get("logs") for value in fields.values() if isinstance(value, dict)]
        for logs in (fields.get("logs"), *tagged):
            yield from (log for log in _items(logs) if isinstance(log, dict))


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _bytes_of(values: Iterable[object], size: int | None = None) -> Iterator[bytes]:
    """Those of the values that are hex, and of this size where one is given."""
    for value in values:
        found = hex_bytes(value)
        if found is not None and size in (None, len(found)):
            yield found


def hex_bytes(value: object) -> bytes | None:
    """The bytes of 0x-prefixed hex in either case; None for anything else."""
    if not isinstance(value, str) or value[:2] not in ("0x", "0X"):
        return None
    try:
        found = bytes.fromhex(value[2:])
    except ValueError:
        return None
    return found if 2 * len(found) == len(value) - 2 else None  # fromhex() takes spaces too


class Scan:
    """Looks for addresses in transactions, in steps; ``hits`` are those that were found so far."""

    __slots__ = ("_steps", "hits")

    def __init__(self, wanted: AbstractSet[bytes] | KeysView[bytes], contents: Contents) -> None:
        """``wanted`` may change meanwhile: then what was added may be missed, what was there all the time not."""
        self.hits: set[bytes] = set()
        self._steps = _steps(wanted, contents.transactions)

    def run(self, clock: Callable[[], float], until: float) -> bool:
        """Look on until ``clock`` reaches ``until``, at least one step; True at the end."""
        for found in self._steps:
            self.hits.update(found)
            if clock() >= until:
                return False
        return True


def scan_seconds(wanted: int, contents: Contents) -> float:
    """About how long a whole scan takes."""
    if not wanted:
        return 0.0
    size = contents.transaction_bytes
    return min(wanted, _ONE_BY_ONE) * (5e-8 * len(contents.transactions) + 4e-9 * size)


def _steps(wanted: AbstractSet[bytes], transactions: tuple[bytes, ...]) -> Iterator[Iterable[bytes]]:
    if len(wanted) <= _ONE_BY_ONE:
        for address in list(wanted):
            yield (address,) if any(address in transaction for transaction in transactions) else ()
        return
    for transaction in transactions:
        for begin in range(0, len(transaction), _PIECE_BYTES):
            piece = transaction[begin : begin + _PIECE_BYTES + ADDRESS_BYTES - 1]
            yield wanted & _windows(piece)


def _windows(piece: bytes) -> set[bytes]:
    """All runs of 20 bytes. In C but for 20 rounds: in Python each would cost three times as much."""
    found: set[bytes] = set()
    for offset in range(min(ADDRESS_BYTES, len(piece) - ADDRESS_BYTES + 1)):
        whole = (len(piece) - offset) // ADDRESS_BYTES * ADDRESS_BYTES
        found.update(*struct.iter_unpack(f"{ADDRESS_BYTES}s", memoryview(piece)[offset : offset + whole]))
    return found
