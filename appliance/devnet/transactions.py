"""Transactions as they stand in blocks: signed EIP-1559 ones and the OP Stack's deposits."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, cast

import rlp
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from appliance.devnet.accounts import Account
from appliance.devnet.merkle import keccak, rlp_encode, rlp_integer
from appliance.devnet.messages import hex_data

DEPOSIT_TYPE: Final = 0x7E
DYNAMIC_FEE_TYPE: Final = 0x02
L1_ATTRIBUTES_DEPOSITOR: Final = bytes.fromhex("deaddeaddeaddeaddeaddeaddeaddeaddead0001")
L1_BLOCK_CONTRACT: Final = bytes.fromhex("4200000000000000000000000000000000000015")
SET_L1_BLOCK_VALUES_ISTHMUS: Final = bytes.fromhex("098999be")
DEPOSIT_GAS_LIMIT: Final = 1_000_000
BASE_GAS: Final = 21_000


class InvalidTransactionError(ValueError):
    """A transaction that no block may contain here; the text is the reason, in geth's words where it has any."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What the simulation needs of a decoded transaction. Amounts are in wei; `raw` is the envelope."""

    raw: bytes
    hash: bytes
    sender: bytes
    nonce: int
    gas_limit: int
    max_fee: int
    max_tip: int
    data: bytes
    is_deposit: bool = False

    @property
    def intrinsic_gas(self) -> int:
        """Gas of the transfer and its call data: 16 for each byte, 4 for each zero byte (EIP-2028)."""
        zeros = self.data.count(0)
        return BASE_GAS + 4 * zeros + 16 * (len(self.data) - zeros)


class KnownTransactions:
    """Decodes transactions and remembers them, so that a signature is recovered once in a devnet.

    Recovery takes 9 ms in pure Python. Holds the newest `limit`; an older one is recovered again.
    """

    def __init__(self, chain_id: int, limit: int = 8192) -> None:
        self.chain_id = chain_id
        self._limit = limit
        self._by_raw: OrderedDict[bytes, Transaction] = OrderedDict()

    def add(self, transaction: Transaction) -> Transaction:
        """Remember a transaction whose sender is known, as its signer knows it."""
        self._by_raw[transaction.raw] = transaction
        if len(self._by_raw) > self._limit:
            self._by_raw.popitem(last=False)
        return transaction

    def decode(self, raw: bytes) -> Transaction:
        """The transaction in `raw`; InvalidTransactionError when it is none that may stand in a block here."""
        known = self._by_raw.get(raw)
        if known is not None:
            return known
        try:
            return self.add(_decode(raw, self.chain_id))
        except InvalidTransactionError:
            raise
        except (ValueError, IndexError, TypeError, rlp.exceptions.RLPException) as error:
            raise InvalidTransactionError(f"transaction cannot be decoded: {error}") from error


def _decode(raw: bytes, chain_id: int) -> Transaction:
    if raw[:1] == bytes((DEPOSIT_TYPE,)):
        return _decode_deposit(raw)
    if raw[:1] != bytes((DYNAMIC_FEE_TYPE,)):
        raise InvalidTransactionError("transaction type not supported")
    fields = _fields(raw, 12, access_list=8)
    chain, nonce, tip, fee, gas = (int.from_bytes(field, "big") for field in fields[:5])
    if chain != chain_id:
        raise InvalidTransactionError(f"invalid chain id for signer: have {chain} want {chain_id}")
    if fields[9] not in (b"", b"\x01"):  # eth-account also takes the parities of legacy transactions
        raise InvalidTransactionError("invalid transaction v, r, s values: y parity is neither 0 nor 1")
    sender = bytes.fromhex(_recover(raw)[2:])
    return Transaction(raw, keccak(raw), sender, nonce, gas, fee, tip, data=bytes(fields[7]))


def _fields(raw: bytes, count: int, *, access_list: int | None = None) -> list[Any]:
    """Strings, but for the access list: where a number belongs an empty list would pass for zero."""
    fields = cast("list[Any]", rlp.decode(raw[1:]))
    if [isinstance(field, bytes) for field in fields] != [index != access_list for index in range(count)]:
        raise InvalidTransactionError("transaction cannot be decoded: its fields are not those of its type")
    return fields


def _recover(raw: bytes) -> str:
    try:
        return cast("str", Account.recover_transaction(raw))
    except (BadSignature, ValidationError, ValueError, TypeError) as error:
        raise InvalidTransactionError(f"invalid transaction v, r, s values: {error}") from error


def _decode_deposit(raw: bytes) -> Transaction:
    source, sender, _to, _mint, _value, gas, _system, data = _fields(raw, 8)
    if len(source) != 32 or len(sender) != 20:
        raise InvalidTransactionError("deposit transaction: source hash or sender of a wrong length")
    gas_limit = int.from_bytes(gas, "big")
    return Transaction(raw, keccak(raw), sender, 0, gas_limit, 0, 0, data, is_deposit=True)


class Wallet:
    """Accounts of the devnet, made of a seed: the same in each run, worth nothing anywhere else."""

    def __init__(self, known: KnownTransactions, seed: str = "appliance devnet") -> None:
        self._known = known
        self._seed = seed
        self._accounts: dict[str, Any] = {}

    def address(self, name: str) -> bytes:
        """The 20-byte address of account `name`."""
        return bytes.fromhex(self._account(name).address[2:])

    def sign(self, name: str, nonce: int, *, data: bytes = b"", value: int = 1, tip: int = 1) -> Transaction:
        """A signed EIP-1559 transfer to account `name` itself, tip in wei. Takes 6 ms: call it in a thread."""
        draft = Transaction(b"", b"", self.address(name), nonce, 0, 10**10, tip, data)
        fields = {
            "type": DYNAMIC_FEE_TYPE,
            "chainId": self._known.chain_id,
            "nonce": nonce,
            "maxFeePerGas": draft.max_fee,
            "maxPriorityFeePerGas": tip,
            "gas": draft.intrinsic_gas,
            "to": self._account(name).address,
            "value": value,
            "data": hex_data(data),
        }
        raw = bytes(self._account(name).sign_transaction(fields).raw_transaction)
        sender, gas = draft.sender, draft.intrinsic_gas
        return self._known.add(Transaction(raw, keccak(raw), sender, nonce, gas, draft.max_fee, tip, data))

    def _account(self, name: str) -> Any:
        if name not in self._accounts:
            self._accounts[name] = Account.from_key(keccak(f"{self._seed}: {name}".encode()))
        return self._accounts[name]


@dataclass(frozen=True, slots=True)
class L1Origin:
    """The L1 block that an L2 block derives from, as the L1Block contract is told of it. Fees are in wei."""

    number: int
    timestamp: int
    hash: bytes
    base_fee: int = 9
    blob_base_fee: int = 1
    batcher_hash: bytes = bytes(32)
    base_fee_scalar: int = 2000
    blob_base_fee_scalar: int = 900_000
    operator_fee_scalar: int = 0
    operator_fee_constant: int = 0


def l1_attributes_deposit(origin: L1Origin, sequence_number: int) -> bytes:
    """The deposit that opens each L2 block (OP specs: L1 attributes deposited transaction, Isthmus form)."""
    source = keccak(_word(1) + keccak(origin.hash + _word(sequence_number)))
    body = rlp_encode(
        [
            source,
            L1_ATTRIBUTES_DEPOSITOR,
            L1_BLOCK_CONTRACT,
            b"",  # mint
            b"",  # value
            rlp_integer(DEPOSIT_GAS_LIMIT),
            b"",  # not a system transaction since Regolith
            _set_l1_block_values(origin, sequence_number),
        ]
    )
    return bytes((DEPOSIT_TYPE,)) + body


def _set_l1_block_values(origin: L1Origin, sequence_number: int) -> bytes:
    return b"".join(
        (
            SET_L1_BLOCK_VALUES_ISTHMUS,
            origin.base_fee_scalar.to_bytes(4, "big"),
            origin.blob_base_fee_scalar.to_bytes(4, "big"),
            sequence_number.to_bytes(8, "big"),
            origin.timestamp.to_bytes(8, "big"),
            origin.number.to_bytes(8, "big"),
            _word(origin.base_fee),
            _word(origin.blob_base_fee),
            origin.hash,
            origin.batcher_hash,
            origin.operator_fee_scalar.to_bytes(4, "big"),
            origin.operator_fee_constant.to_bytes(8, "big"),
        )
    )


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")
