"""The chain that the two clients share: its genesis, the accounts that hold money, and signed transfers."""

from typing import Any

from eth_account import Account

CHAIN_ID = 74110
GAS_LIMIT = 30_000_000
ETHER = 10**18
RECIPIENT = "0x" + "00" * 18 + "1234"


class Wallet:
    """An account with money that signs transfers with rising nonces."""

    def __init__(self, key: bytes) -> None:
        self._account = Account.from_key(key)
        self._nonce = 0

    @property
    def address(self) -> str:
        return str(self._account.address)

    def lost_after(self, nonce: int) -> None:
        """The transactions from ``nonce`` on never got into a block: sign them anew."""
        self._nonce = nonce

    def sign_transfer(self, wei: int = 1) -> str:
        """A raw EIP-1559 transaction, as hex with 0x, ready for eth_sendRawTransaction."""
        transaction = {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": self._nonce,
            "to": RECIPIENT,
            "value": wei,
            "gas": 21_000,
            "maxFeePerGas": 100 * 10**9,
            "maxPriorityFeePerGas": 10**9,
        }
        self._nonce += 1
        return "0x" + bytes(self._account.sign_transaction(transaction).raw_transaction).hex()


def genesis(timestamp: int, wallets: list[Wallet]) -> dict[str, Any]:
    """A geth genesis in which Cancun holds from the start (Engine API V3) and ``wallets`` are rich."""
    blocks = ("homestead", "eip150", "eip155", "eip158", "byzantium", "constantinople", "petersburg")
    forks = dict.fromkeys([f"{name}Block" for name in (*blocks, "istanbul", "berlin", "london")], 0)
    config = {
        "chainId": CHAIN_ID,
        **forks,
        "mergeForkBlock": 0,
        "terminalTotalDifficulty": 0,
        "terminalTotalDifficultyPassed": True,
        "shanghaiTime": 0,
        "cancunTime": 0,
    }
    return {
        "config": config,
        "nonce": "0x0",
        "timestamp": hex(timestamp),
        "extraData": "0x",
        "gasLimit": hex(GAS_LIMIT),
        "difficulty": "0x0",
        "mixHash": "0x" + "00" * 32,
        "coinbase": "0x" + "00" * 20,
        "number": "0x0",
        "gasUsed": "0x0",
        "parentHash": "0x" + "00" * 32,
        "baseFeePerGas": hex(10**9),
        "alloc": {wallet.address: {"balance": hex(1000 * ETHER)} for wallet in wallets},
    }
