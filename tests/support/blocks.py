"""Real blocks for tests, and an independent judge of them.

Hashes are made with the general `rlp` and `trie` libraries, on purpose not with the devnet's own code: a
mistake there must not agree with itself.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import brotli
import rlp
from eth_hash.auto import keccak
from trie.hexary import HexaryTrie

DATA = pathlib.Path(__file__).parents[1] / "data"

Json = dict[str, Any]
"""A JSON object, as `json.loads` makes it."""

_EMPTY_OMMERS = keccak(rlp.encode([]))
_EMPTY_REQUESTS = hashlib.sha256(b"").digest()


def unhex(text: str) -> bytes:
    """Bytes of 0x-prefixed hex."""
    return bytes.fromhex(text[2:])


def list_root(items: Sequence[bytes]) -> bytes:
    """Root of the Merkle Patricia trie of RLP(index) -> item: a header's transactions root."""
    trie = HexaryTrie({})
    for index, item in enumerate(items):
        trie[rlp.encode(index)] = item
    root: bytes = trie.root_hash
    return root


def block_hash(payload: Json, parent_beacon_block_root: str) -> str:
    """keccak(RLP(header)) of an OP Stack `ExecutionPayload`, V3 or V4 (with `withdrawalsRoot`)."""
    number = {name: int(payload[name], 16) for name in payload if isinstance(payload[name], str)}
    header: list[bytes | int] = [
        unhex(payload["parentHash"]),
        _EMPTY_OMMERS,
        unhex(payload["feeRecipient"]),
        unhex(payload["stateRoot"]),
        list_root([unhex(transaction) for transaction in payload["transactions"]]),
        unhex(payload["receiptsRoot"]),
        unhex(payload["logsBloom"]),
        0,
        number["blockNumber"],
        number["gasLimit"],
        number["gasUsed"],
        number["timestamp"],
        unhex(payload["extraData"]),
        unhex(payload["prevRandao"]),
        bytes(8),
        number["baseFeePerGas"],
        _withdrawals_root(payload),
        number["blobGasUsed"],
        number["excessBlobGas"],
        unhex(parent_beacon_block_root),
    ]
    if "withdrawalsRoot" in payload:
        header.append(_EMPTY_REQUESTS)
    return "0x" + keccak(rlp.encode(header)).hex()


def _withdrawals_root(payload: Json) -> bytes:
    """Isthmus puts the message passer's storage root there; before, it is the root of no withdrawals."""
    if "withdrawalsRoot" in payload:
        return unhex(payload["withdrawalsRoot"])
    assert payload["withdrawals"] == [], "OP Stack blocks have no withdrawals"
    return list_root([])


def slice_into_flashblocks(payload: Json, parent_beacon_block_root: str, payload_id: str, pieces: int) -> list[Json]:
    """``payload`` as flashblocks 0..pieces-1; the last one's `diff` is the whole block's.

    Each diff's block hash is that of the block of the transactions so far. Roots and bloom in between
    cannot be known without executing, so they are the final ones; gas used grows evenly.
    """
    transactions = payload["transactions"]
    cuts = [len(transactions) * piece // pieces for piece in range(pieces + 1)]
    slices = [transactions[start:end] for start, end in pairwise(cuts)]
    flashblocks = []
    for index, new in enumerate(slices):
        gas = hex(int(payload["gasUsed"], 16) * (index + 1) // pieces)
        so_far = payload | {"transactions": transactions[: cuts[index + 1]], "gasUsed": gas}
        message = {
            "payload_id": payload_id,
            "index": index,
            "diff": _diff(so_far, block_hash(so_far, parent_beacon_block_root), new),
            "metadata": {"block_number": int(payload["blockNumber"], 16)},
        }
        flashblocks.append(message if index else message | {"base": _base(payload, parent_beacon_block_root)})
    return flashblocks


def _base(payload: Json, parent_beacon_block_root: str) -> Json:
    return {
        "parent_beacon_block_root": parent_beacon_block_root,
        "parent_hash": payload["parentHash"],
        "fee_recipient": payload["feeRecipient"],
        "prev_randao": payload["prevRandao"],
        "block_number": payload["blockNumber"],
        "gas_limit": payload["gasLimit"],
        "timestamp": payload["timestamp"],
        "extra_data": payload["extraData"],
        "base_fee_per_gas": payload["baseFeePerGas"],
    }


def _diff(payload: Json, hash_so_far: str, transactions: list[str]) -> Json:
    diff = {
        "state_root": payload["stateRoot"],
        "receipts_root": payload["receiptsRoot"],
        "logs_bloom": payload["logsBloom"],
        "gas_used": payload["gasUsed"],
        "block_hash": hash_so_far,
        "transactions": transactions,
        "withdrawals": [],
    }
    if "withdrawalsRoot" in payload:
        diff["withdrawals_root"] = payload["withdrawalsRoot"]
    return diff


def unichain_messages() -> list[bytes]:
    """The five flashblock messages of Unichain Sepolia's block 35535698, as they were sent."""
    return (DATA / "flashblocks" / "unichain-sepolia-35535698.jsonl").read_bytes().splitlines()


def unichain_new_payload() -> Json:
    """The engine_newPayloadV4 request that those five add up to."""
    request: Json = json.loads((DATA / "engine" / "unichain-sepolia-35535698-newPayloadV4.json").read_text())
    return request


def op_sepolia_blocks() -> Iterator[tuple[Json, str]]:
    """(execution payload, parent beacon block root) of three real OP Sepolia blocks."""
    path = DATA / "engine" / "opsepolia-newPayloadV3-26207960-26207962.jsonl"
    for line in path.read_text().splitlines():
        payload, _versioned_hashes, parent_beacon_block_root = json.loads(line)["params"]
        yield payload, parent_beacon_block_root


def compressed(message: bytes) -> bytes:
    """A message as builders send it in binary frames."""
    body: bytes = brotli.compress(message, quality=5)
    return body
