"""Engine API messages for tests: small, complete, and different where a test looks."""

import hashlib
import json
from dataclasses import dataclass

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import PayloadId, PayloadStatus

ROOT = "0x" + "be" * 32
DEPOSIT = "0x7e" + "00" * 8
PARENT = "0x" + "aa" * 32
FEE_RECIPIENT = "0x" + "4a" * 20
GAS_LIMIT = 30_000_000
TIMESTAMP = 1_700_000_000


def block_hash(name: str) -> str:
    """A hash that differs by name."""
    return "0x" + hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class Block:
    """A block as an upstream answers it. ``transactions`` come after the deposit that attributes force."""

    name: str
    parent: str = PARENT
    timestamp: int = TIMESTAMP
    gas_used: int = 100_000
    number: int = 7
    transactions: tuple[str, ...] = ()
    deposits: tuple[str, ...] = (DEPOSIT,)
    padding: int = 0
    value: int = 1
    state_root: str | None = None
    fee_recipient: str | None = FEE_RECIPIENT
    prev_randao: str | None = ROOT
    gas_limit: int | None = GAS_LIMIT
    withdrawals: tuple[str, ...] | None = ()
    beacon_root: str | None = ROOT
    extra_data: str | None = None

    @property
    def hash(self) -> str:
        return block_hash(self.name)

    def payload(self) -> dict[str, object]:
        root = {} if self.state_root is None else {"stateRoot": self.state_root}
        return {
            **root,
            "parentHash": self.parent,
            "blockHash": self.hash,
            "blockNumber": hex(self.number),
            "timestamp": hex(self.timestamp),
            "gasUsed": hex(self.gas_used),
            "extraData": self.extra_data or "0x" + "00" * self.padding,
            "transactions": [*self.deposits, *self.transactions],
            "feeRecipient": self.fee_recipient,
            "prevRandao": self.prev_randao,
            "gasLimit": None if self.gas_limit is None else hex(self.gas_limit),
            "withdrawals": None if self.withdrawals is None else list(self.withdrawals),
            "withdrawalsRoot": ROOT,
            "builtBy": self.name,
        }

    def answer(self, identifier: object = 1, version: int = 4) -> bytes:
        """getPayload's answer."""
        envelope = {
            "executionPayload": self.payload(),
            "blockValue": hex(self.value),
            "blobsBundle": {"commitments": [], "proofs": [], "blobs": []},
            "shouldOverrideBuilder": False,
            "parentBeaconBlockRoot": self.beacon_root,
            "executionRequests": [],
        }
        return result(self.payload() if version == 1 else envelope, identifier)

    def assembled(self, builder: str = "alpha", validated: bool = False) -> AssembledPayload:
        """The same block, made of flashblocks."""
        transactions = (*self.deposits, *self.transactions)
        return AssembledPayload(
            payload_id=PayloadId("0x0b"),
            builder=builder,
            block_number=self.number,
            block_hash=self.hash,
            parent_hash=self.parent,
            gas_used=self.gas_used,
            timestamp=self.timestamp,
            parent_beacon_block_root=self.beacon_root or "",
            has_withdrawals_root=True,
            execution_payload=json.dumps(self.payload()).encode(),
            transactions=tuple(json.dumps(transaction).encode() for transaction in transactions),
            flashblocks=3,
            validated=validated,
            fee_recipient=self.fee_recipient,
            prev_randao=self.prev_randao,
            gas_limit=self.gas_limit,
            withdrawals=None
            if self.withdrawals is None
            else tuple(b'"%b"' % each.encode() for each in self.withdrawals),
            extra_data=self.extra_data,
        )


def request(method: str, params: object, identifier: object = 1) -> bytes:
    """One call."""
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode()


def forkchoice(head: str = PARENT, identifier: object = 1) -> bytes:
    """forkchoiceUpdated without attributes."""
    return request("engine_forkchoiceUpdatedV3", [state(head), None], identifier)


def build(
    head: str = PARENT, timestamp: int = TIMESTAMP, no_tx_pool: bool | None = None, identifier: object = 1
) -> bytes:
    """forkchoiceUpdated with attributes."""
    attributes: dict[str, object] = {
        "timestamp": hex(timestamp),
        "prevRandao": ROOT,
        "suggestedFeeRecipient": FEE_RECIPIENT,
        "withdrawals": [],
        "parentBeaconBlockRoot": ROOT,
        "transactions": [DEPOSIT],
        "gasLimit": hex(GAS_LIMIT),
    }
    if no_tx_pool is not None:
        attributes["noTxPool"] = no_tx_pool
    return request("engine_forkchoiceUpdatedV3", [state(head), attributes], identifier)


def state(head: str) -> dict[str, str]:
    """`ForkchoiceStateV1`."""
    return {"headBlockHash": head, "safeBlockHash": head, "finalizedBlockHash": head}


def get_payload(payload_id: str = "0x0e", identifier: object = 1, version: int = 4) -> bytes:
    """getPayload."""
    return request(f"engine_getPayloadV{version}", [payload_id], identifier)


def new_payload(block: Block, identifier: object = 1) -> bytes:
    """newPayload."""
    return request("engine_newPayloadV4", [block.payload(), [], ROOT, []], identifier)


def result(value: object, identifier: object = 1) -> bytes:
    """An answer."""
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "result": value}).encode()


def error(code: int = -38001, text: str = "Unknown payload", identifier: object = 1) -> bytes:
    """An error answer."""
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": text}}).encode()


def forkchoice_answer(
    payload_id: str | None = None, status: str = PayloadStatus.VALID, identifier: object = 1
) -> bytes:
    """The answer to forkchoiceUpdated."""
    payload_status = {"status": status, "latestValidHash": PARENT, "validationError": None}
    return result({"payloadStatus": payload_status, "payloadId": payload_id}, identifier)


def verdict(status: str = PayloadStatus.VALID, validation_error: str | None = None) -> bytes:
    """The answer to newPayload."""
    return result({"status": status, "latestValidHash": None, "validationError": validation_error})


def latest_block(timestamp: int) -> bytes:
    """The answer to eth_getBlockByNumber."""
    return result({"number": "0x1", "timestamp": hex(timestamp)})
