"""What the devnet's users send: an endless, ordered stream of signed transactions, shared by all builders.

Sequence number s is the transaction with nonce s // accounts of user s % accounts, so a chain's nonces say
which comes next, and two builders on one parent choose the same ones without talking to each other.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import trio

from appliance.devnet.transactions import Transaction, Wallet

RunSync = Callable[..., Awaitable[Any]]
# A signature takes 6 ms of a thread that holds the interpreter; this bounds them to a third of a core.
PAUSE_BETWEEN_SIGNATURES_S = 0.012
KEEP_BEHIND = 512  # a builder that is that far behind the others makes smaller blocks


class Traffic:
    """Signed ahead of need by `run`; whoever builds takes what is there and never waits."""

    def __init__(
        self,
        wallet: Wallet,
        *,
        accounts: int = 8,
        ahead: int = 80,
        max_data_bytes: int = 200,
        seed: int = 1,
    ) -> None:
        self._wallet = wallet
        self._users = [f"user {number}" for number in range(accounts)]
        self._addresses = [wallet.address(user) for user in self._users]
        self._ahead = ahead
        self._random = Random(seed)
        self._max_data_bytes = max_data_bytes
        self._signed: OrderedDict[int, Transaction] = OrderedDict()  # at most ahead + KEEP_BEHIND
        self._next = 0
        self._highest_asked = -1
        self._wanted = trio.Event()
        self._stored = trio.Event()

    def next_sequence(self, nonces: Mapping[bytes, int]) -> int:
        """The sequence number that follows what a chain with these nonces holds."""
        return sum(nonces.get(address, 0) for address in self._addresses)

    def take(self, sequence: int) -> Transaction | None:
        """Transaction number `sequence`, or None while it is not signed yet. It may be taken many times."""
        if sequence > self._highest_asked:
            self._highest_asked = sequence
            self._wanted.set()
        return self._signed.get(sequence)

    async def wait_signed(self, count: int) -> None:
        """Return when the first `count` are there."""
        while self._next < count:
            await self._stored.wait()

    async def run(self, run_sync: RunSync = trio.to_thread.run_sync) -> None:
        """Sign ahead for ever; `run_sync` runs one signature, in a thread unless a test says otherwise."""
        while True:
            while self._next <= self._highest_asked + self._ahead:
                self._store(await run_sync(self._sign, self._next))
                await trio.sleep(PAUSE_BETWEEN_SIGNATURES_S)
            self._wanted = trio.Event()
            await self._wanted.wait()

    def sign_now(self, count: int) -> None:
        """Sign up to number `count` at once, for tests and before a clock starts; 6 ms each."""
        while self._next < count:
            self._store(self._sign(self._next))

    def _store(self, transaction: Transaction) -> None:
        self._signed[self._next] = transaction
        self._next += 1
        self._stored.set()
        self._stored = trio.Event()
        if len(self._signed) > self._ahead + KEEP_BEHIND:
            self._signed.popitem(last=False)

    def _sign(self, sequence: int) -> Transaction:
        nonce, user = divmod(sequence, len(self._users))
        data = self._random.randbytes(self._random.randrange(self._max_data_bytes))
        return self._wallet.sign(self._users[user], nonce, data=data, value=self._random.randrange(10**18))
