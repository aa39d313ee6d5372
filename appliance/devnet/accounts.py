"""eth-account's `Account`, without what importing it does to the process.

py_ecc, which it brings, sets the recursion limit to 100,000. With that a JSON text nested deeply enough runs
over the C stack instead of raising RecursionError: anyone who may send a message could end the process.
"""

import sys

_LIMIT = sys.getrecursionlimit()
from eth_account import Account  # noqa: E402 the limit has to be noted before and restored after

sys.setrecursionlimit(_LIMIT)

__all__ = ["Account"]
