"""The methods of a simulated execution client: JSON-RPC calls in, results or RpcError out. Pure.

Building is split: a call starts a job with what the attributes prescribe, the shell adds transactions
to it as time passes, and getPayload closes it with the block so far.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from appliance.devnet.chain import Fork
from appliance.devnet.execution import Block, Execution, header_to_build
from appliance.devnet.ledger import Ledger
from appliance.devnet.mempool import Mempool
from appliance.devnet.merkle import keccak
from appliance.devnet.messages import (
    INVALID_ATTRIBUTES,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    SERVER_ERROR,
    UNKNOWN_PAYLOAD,
    UNSUPPORTED_FORK,
    ExecutionPayload,
    ForkchoiceState,
    PayloadAttributes,
    RpcError,
    decode_as,
    hex_data,
    parameter,
    quantity,
    unhex,
)
from appliance.devnet.payload_id import payload_id
from appliance.devnet.transactions import InvalidTransactionError, KnownTransactions
from appliance.domain.payloads import PayloadId, PayloadStatus

JOBS_KEPT: Final = 10  # as geth: an older payload id is unknown again
BUILT_KEPT: Final = 512
GET_PAYLOAD_FORKS: Final[Mapping[int, tuple[Fork, ...]]] = {
    1: (Fork.BEDROCK,),
    2: (Fork.BEDROCK, Fork.CANYON),
    3: (Fork.ECOTONE,),
    4: (Fork.ISTHMUS,),
    5: (Fork.ISTHMUS,),
}
NEW_PAYLOAD_FORKS: Final[Mapping[int, tuple[Fork, ...]]] = {
    1: (Fork.BEDROCK,),
    2: (Fork.BEDROCK, Fork.CANYON),
    3: (Fork.ECOTONE,),
    4: (Fork.ISTHMUS,),
}

Params = Sequence[Any]
Method = Callable[[Params], Any]
Alter = Callable[[Block], Block]


def unaltered(block: Block) -> Block:
    """An honest client's block is the one that it executed."""
    return block


@dataclass
class BuildJob:
    """One block being built for a payload id. `alter` lets a fault change what is shown of it."""

    payload_id: PayloadId
    parent: Block
    attributes: PayloadAttributes
    execution: Execution
    alter: Alter = unaltered
    closed: bool = False  # getPayload was answered, or a newer job replaced this one
    _sealed: tuple[int, Block] | None = field(default=None, repr=False)

    def block(self) -> Block:
        """The block of the transactions so far, as this client shows it."""
        count = len(self.execution.transactions)
        if self._sealed is None or self._sealed[0] != count:
            self._sealed = count, self.alter(self.execution.seal())
        return self._sealed[1]


class EngineApi:
    """One client's chain, mempool and jobs behind its JSON-RPC methods.

    `on_build` is called with each new job, at once. `id_version` is byte 0 of payload ids: None for
    op-geth's rule (the forkchoiceUpdated version), a number where a client always uses the same.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        name: str,
        id_version: int | None = None,
        on_build: Callable[[BuildJob], None] | None = None,
    ) -> None:
        self.ledger = ledger
        self.mempool = Mempool()
        self.jobs: OrderedDict[PayloadId, BuildJob] = OrderedDict()
        self.settings: dict[str, Any] = {}  # what miner_* calls asked for
        self.built: OrderedDict[str, PayloadId] = OrderedDict()  # what was shown, by block hash
        self.alter: Alter = unaltered
        self._name = name
        self._id_version = id_version
        self._on_build = on_build
        self._methods = self._method_table()

    @property
    def known(self) -> KnownTransactions:
        """The transactions that this devnet has decoded."""
        return self.ledger.known

    def call(self, method: str, params: Params) -> Any:
        """The result of one call; RpcError as a real client would answer."""
        handler = self._methods.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {method} does not exist/is not available")
        return handler(params)

    def _method_table(self) -> dict[str, Method]:
        table: dict[str, Method] = {
            "engine_exchangeCapabilities": lambda _params: self.capabilities(),
            "eth_blockNumber": lambda _params: hex(self.ledger.head.number),
            "eth_chainId": lambda _params: hex(self.known.chain_id),
            "net_version": lambda _params: str(self.known.chain_id),
            "eth_syncing": lambda _params: False,
            "web3_clientVersion": lambda _params: f"appliance-devnet/{self._name}",
            "eth_getBlockByNumber": self._get_block_by_number,
            "eth_getBlockByHash": self._get_block_by_hash,
            "eth_getTransactionCount": self._get_transaction_count,
            "eth_sendRawTransaction": self._send_raw_transaction,
            "eth_sendRawTransactionConditional": self._send_raw_transaction,
        }
        for name in ("miner_setExtra", "miner_setGasPrice", "miner_setGasLimit", "miner_setMaxDASize"):
            table[name] = self._setter(name)
        for version in (1, 2, 3):
            table[f"engine_forkchoiceUpdatedV{version}"] = self._versioned(self.forkchoice_updated, version)
        for version in GET_PAYLOAD_FORKS:
            table[f"engine_getPayloadV{version}"] = self._versioned(self.get_payload, version)
        for version in NEW_PAYLOAD_FORKS:
            table[f"engine_newPayloadV{version}"] = self._versioned(self.new_payload, version)
        return table

    @staticmethod
    def _versioned(method: Callable[[Params, int], Any], version: int) -> Method:
        return lambda params: method(params, version)

    def _setter(self, name: str) -> Method:
        def set_value(params: Params) -> bool:
            self.settings[name] = list(params)
            return True

        return set_value

    def capabilities(self) -> list[str]:
        """Answer of exchangeCapabilities: all engine methods but itself (the specification says so)."""
        names = (name for name in self._methods if name.startswith("engine_"))
        return sorted(name for name in names if name != "engine_exchangeCapabilities")

    # Engine API

    def forkchoice_updated(self, params: Params, version: int) -> dict[str, Any]:
        """Set the head, and start a job when attributes come with it."""
        state = decode_as(ForkchoiceState, parameter(params, 0))
        raw = parameter(params, 1)
        attributes = None if raw is None else decode_as(PayloadAttributes, raw, INVALID_ATTRIBUTES)
        payload_status = self.ledger.forkchoice_updated(state)
        if payload_status["status"] != PayloadStatus.VALID or attributes is None:
            return {"payloadStatus": payload_status, "payloadId": None}
        self.mempool.forget_included(self.ledger.head.nonces)
        return {"payloadStatus": payload_status, "payloadId": self._start(attributes, version)}

    def _start(self, attributes: PayloadAttributes, version: int) -> PayloadId:
        parent = self.ledger.head
        try:
            self._check_attributes(attributes, parent, version)
            name = payload_id(parent.hash, attributes, self._id_version or version)
            job = self.jobs.get(name) or self._new_job(name, parent, attributes)
        except (ValueError, OverflowError) as error:
            raise RpcError(INVALID_ATTRIBUTES, f"Invalid payload attributes: {error}") from error
        return job.payload_id

    def _check_attributes(self, attributes: PayloadAttributes, parent: Block, version: int) -> None:
        cancun = self.ledger.fork >= Fork.ECOTONE
        if cancun != (version >= 3):
            raise RpcError(UNSUPPORTED_FORK, "Unsupported fork")
        if cancun and attributes.parent_beacon_block_root is None:
            raise RpcError(INVALID_ATTRIBUTES, "Invalid payload attributes: missing beacon root")
        if quantity(attributes.timestamp) <= parent.header.timestamp:
            raise RpcError(INVALID_ATTRIBUTES, "Invalid payload attributes: invalid timestamp")
        params = attributes.eip1559_params
        if params is not None and len(params) != 18:
            raise RpcError(INVALID_ATTRIBUTES, "Invalid payload attributes: eip1559Params must be 8 bytes")

    def _new_job(self, name: PayloadId, parent: Block, attributes: PayloadAttributes) -> BuildJob:
        template = header_to_build(parent.header, attributes, self.ledger.fork)
        execution = Execution(parent, template)
        execution.add_all(self.known.decode(unhex(raw)) for raw in attributes.transactions or ())
        for older in self.jobs.values():
            older.closed = True
        job = self.jobs[name] = BuildJob(name, parent, attributes, execution, self.alter)
        if len(self.jobs) > JOBS_KEPT:
            self.jobs.popitem(last=False)
        if self._on_build is not None:
            self._on_build(job)
        return job

    def get_payload(self, params: Params, version: int) -> Any:
        """The block of a job so far; the job is closed. RpcError -38001 for a payload id that is not held."""
        job = self.jobs.get(PayloadId(str(parameter(params, 0))))
        if job is None:
            raise RpcError(UNKNOWN_PAYLOAD, "Unknown payload")
        if self.ledger.fork not in GET_PAYLOAD_FORKS[version]:
            raise RpcError(UNSUPPORTED_FORK, "Unsupported fork")
        job.closed = True
        self.note_built(job)
        return payload_envelope(job.block(), job.execution.tips, version)

    def note_built(self, job: BuildJob) -> None:
        """Remember that the block of `job` so far was shown to someone."""
        self.built[job.block().hash] = job.payload_id
        if len(self.built) > BUILT_KEPT:
            self.built.popitem(last=False)

    def new_payload(self, params: Params, version: int) -> dict[str, Any]:
        """Check a block; `PayloadStatusV1`."""
        if self.ledger.fork not in NEW_PAYLOAD_FORKS[version]:
            raise RpcError(UNSUPPORTED_FORK, "Unsupported fork")
        payload = decode_as(ExecutionPayload, parameter(params, 0))
        self._check_payload_shape(payload, params, version)
        return self.ledger.new_payload(payload, parameter(params, 2) if version >= 3 else None)

    def _check_payload_shape(self, payload: ExecutionPayload, params: Params, version: int) -> None:
        if version >= 3 and (parameter(params, 1) != [] or not isinstance(parameter(params, 2), str)):
            raise RpcError(INVALID_PARAMS, "versionedHashes must be [], parentBeaconBlockRoot a hash")
        if version >= 4 and parameter(params, 3) != []:
            raise RpcError(INVALID_PARAMS, "executionRequests must be []")
        if (payload.withdrawals_root is None) == (self.ledger.fork >= Fork.ISTHMUS):
            raise RpcError(INVALID_PARAMS, "withdrawalsRoot does not belong to this fork")
        if (payload.blob_gas_used is None) == (self.ledger.fork >= Fork.ECOTONE):
            raise RpcError(INVALID_PARAMS, "blobGasUsed does not belong to this fork")

    # eth

    def _get_block_by_number(self, params: Params) -> dict[str, Any] | None:
        try:
            block = self.ledger.by_number(str(parameter(params, 0)))
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f"invalid argument 0: {error}") from error
        return None if block is None else block_json(block, self.known, full=bool(parameter(params, 1)))

    def _get_block_by_hash(self, params: Params) -> dict[str, Any] | None:
        block = self.ledger.blocks.get(str(parameter(params, 0)))
        return None if block is None else block_json(block, self.known, full=bool(parameter(params, 1)))

    def _get_transaction_count(self, params: Params) -> str:
        try:
            address = unhex(str(parameter(params, 0)))
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f"invalid argument 0: {error}") from error
        return hex(self.ledger.head.nonces.get(address, 0))

    def _send_raw_transaction(self, params: Params) -> str:
        try:
            transaction = self.known.decode(unhex(str(parameter(params, 0))))
        except ValueError as error:
            raise RpcError(SERVER_ERROR, str(error)) from error
        self.mempool.add(transaction, self.ledger.head.nonces)
        return hex_data(transaction.hash)


def payload_envelope(block: Block, value: int, version: int) -> Any:
    """The answer of getPayload in the shape of `version`; `value` is the block's value in wei."""
    payload = msgspec.to_builtins(block.payload())
    if version == 1:
        return payload
    envelope = {"executionPayload": payload, "blockValue": hex(value)}
    if version >= 3:
        envelope["blobsBundle"] = {"commitments": [], "proofs": [], "blobs": []}
        envelope["shouldOverrideBuilder"] = False
        envelope["parentBeaconBlockRoot"] = block.parent_beacon_block_root
    if version >= 4:
        envelope["executionRequests"] = []
    return envelope


def block_json(block: Block, known: KnownTransactions, *, full: bool) -> dict[str, Any]:
    """A block as `eth_getBlockBy...` answers it."""
    header = block.header
    return {
        "number": hex(header.number),
        "hash": block.hash,
        "parentHash": hex_data(header.parent_hash),
        "timestamp": hex(header.timestamp),
        "stateRoot": hex_data(header.state_root),
        "transactionsRoot": hex_data(header.transactions_root),
        "receiptsRoot": hex_data(header.receipts_root),
        "logsBloom": hex_data(header.logs_bloom),
        "miner": hex_data(header.miner),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "baseFeePerGas": hex(header.base_fee),
        "extraData": hex_data(header.extra_data),
        "mixHash": hex_data(header.prev_randao),
        "transactions": [_transaction_json(raw, known, full=full) for raw in block.transactions],
    }


def _transaction_json(raw: bytes, known: KnownTransactions, *, full: bool) -> Any:
    if not full:
        return hex_data(keccak(raw))
    try:
        transaction = known.decode(raw)
    except InvalidTransactionError:  # a replayed chain's transactions are of a kind that this one has not
        return {"hash": hex_data(keccak(raw)), "type": hex(raw[0])}
    return {
        "hash": hex_data(transaction.hash),
        "from": hex_data(transaction.sender),
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas_limit),
        "input": hex_data(transaction.data),
        "type": hex(raw[0]),
    }
