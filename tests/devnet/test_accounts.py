import json
import sys

import pytest

from appliance.devnet.accounts import Account


def test_importing_the_library_leaves_the_recursion_limit_alone() -> None:
    assert Account.from_key(b"\x01" * 32).address
    assert sys.getrecursionlimit() <= 10_000


def test_so_deeply_nested_json_is_an_error_and_not_the_end_of_the_process() -> None:
    with pytest.raises(RecursionError):
        json.loads("[" * 100_000)
